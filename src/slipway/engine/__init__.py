"""The engine layer: worker processes that speak llama-server's protocol, and who is in memory.

Importing this package loads no HTTP library; its parts are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.engine.client import Delta, EngineClient, Finish
    from slipway.engine.providers import Provider, find_provider
    from slipway.engine.residency import Residency
    from slipway.engine.settings import EngineSettings, parse_duration
    from slipway.engine.spec import LoadSpec, load_spec
    from slipway.engine.table import Lease
    from slipway.engine.worker import launch

__all__ = [
    "Delta",
    "EngineClient",
    "EngineSettings",
    "Finish",
    "Lease",
    "LoadSpec",
    "Provider",
    "Residency",
    "find_provider",
    "launch",
    "load_spec",
    "parse_duration",
]

_HOMES = {
    "Delta": "client",
    "EngineClient": "client",
    "EngineSettings": "settings",
    "Finish": "client",
    "Lease": "table",
    "LoadSpec": "spec",
    "Provider": "providers",
    "Residency": "residency",
    "find_provider": "providers",
    "launch": "worker",
    "load_spec": "spec",
    "parse_duration": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"slipway.engine.{_HOMES[name]}"), name)
