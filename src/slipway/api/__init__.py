"""The model daemon's HTTP faces: Ollama's, OpenAI's, and metrics.

Importing this package loads no web framework; its parts are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.api.app import build_app
    from slipway.api.server import is_loopback, run_server

__all__ = ["build_app", "is_loopback", "run_server"]

_HOMES = {"build_app": "app", "is_loopback": "server", "run_server": "server"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"slipway.api.{_HOMES[name]}"), name)
