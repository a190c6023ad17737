"""From a run to a name in the model store, in one resumable job.

Importing this package imports none of its parts: a stage's own process needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.ship.options import ShipOptions, target_names
    from slipway.ship.plan import Product, ShipPlan
    from slipway.ship.run import Shipped, plan_ship, ship

_MODULES = {
    "Product": "plan",
    "ShipOptions": "options",
    "ShipPlan": "plan",
    "Shipped": "run",
    "plan_ship": "run",
    "ship": "run",
    "target_names": "options",
}

__all__ = ["Product", "ShipOptions", "ShipPlan", "Shipped", "plan_ship", "ship", "target_names"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"slipway.ship.{_MODULES[name]}"), name)
    raise AttributeError(name)
