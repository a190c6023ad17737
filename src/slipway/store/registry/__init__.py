"""Models from and to registries that speak Ollama's protocol (manifests and blobs under `/v2/`)."""

from slipway.store.registry.naming import registry_name
from slipway.store.registry.pull import pull_model
from slipway.store.registry.push import push_model
from slipway.store.registry.rules import TransferRules

__all__ = ["TransferRules", "pull_model", "push_model", "registry_name"]
