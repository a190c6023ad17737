"""The gateway: users, keys and channels behind one OpenAI-compatible address, with exact books.

    store = open_store()
    add_user(store, "ada")
    token, key = add_token(store, "laptop", user="ada", budget_micro=1_500_000)
    add_channel(store, ChannelSpec("local", "slipway", "http://127.0.0.1:11434"))
    serve(store, GatewayConfig(), on_ready=lambda: None)

Every function takes an open `Store`; a running gateway sees changes at its next request.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.gateway.accounts import (
        Token,
        User,
        add_token,
        add_user,
        list_tokens,
        list_users,
        revoke_token,
    )
    from slipway.gateway.app import build_app
    from slipway.gateway.channels import (
        ChannelSpec,
        add_channel,
        explain_route,
        list_channels,
        list_prices,
        refresh_channel,
    )
    from slipway.gateway.config import GatewayConfig
    from slipway.gateway.ledger import check_books
    from slipway.gateway.limits import Limit, LimitRow, list_limits, remove_limit, set_limit
    from slipway.gateway.pricing import Price, parse_money
    from slipway.gateway.routing import Channel
    from slipway.gateway.screening import filter_of
    from slipway.gateway.server import serve
    from slipway.gateway.store import Store, open_store
    from slipway.gateway.usage import UsageSummary, list_requests, usage_summary

_HOME = {
    "accounts": (
        "Token",
        "User",
        "add_token",
        "add_user",
        "list_tokens",
        "list_users",
        "revoke_token",
    ),
    "app": ("build_app",),
    "channels": (
        "ChannelSpec",
        "add_channel",
        "explain_route",
        "list_channels",
        "list_prices",
        "refresh_channel",
    ),
    "config": ("GatewayConfig",),
    "ledger": ("check_books",),
    "limits": ("Limit", "LimitRow", "list_limits", "remove_limit", "set_limit"),
    "pricing": ("Price", "parse_money"),
    "routing": ("Channel",),
    "screening": ("filter_of",),
    "server": ("serve",),
    "store": ("Store", "open_store"),
    "usage": ("UsageSummary", "list_requests", "usage_summary"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Channel",
    "ChannelSpec",
    "GatewayConfig",
    "Limit",
    "LimitRow",
    "Price",
    "Store",
    "Token",
    "UsageSummary",
    "User",
    "add_channel",
    "add_token",
    "add_user",
    "build_app",
    "check_books",
    "explain_route",
    "filter_of",
    "list_channels",
    "list_limits",
    "list_prices",
    "list_requests",
    "list_tokens",
    "list_users",
    "open_store",
    "parse_money",
    "refresh_channel",
    "remove_limit",
    "revoke_token",
    "serve",
    "set_limit",
    "usage_summary",
]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
