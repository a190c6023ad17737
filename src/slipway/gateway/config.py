"""How a gateway process runs."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.gateway.filter import ContentFilter
from slipway.gateway.routing import Strategy


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Limits and timeouts of a gateway process; users, tokens and channels are in the database.

    Attributes:
        host: address to listen on; this machine only by default.
        port: TCP port.
        max_body_bytes: larger request bodies are refused.
        connect_timeout_s: for reaching a channel before the next one is tried.
        queue_timeout_s: how long a request may wait for one of the places that a limit allows.
        strategy: how channels of one priority are chosen; a conversation stays at its channel.
        filters: what requests and answers are looked at by; None for nothing.
        idle_timeout_s: how long a channel may stay silent, loading a model included.
    """

    host: str = "127.0.0.1"
    port: int = 3000
    max_body_bytes: int = 32 * 1024 * 1024
    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 600.0
    queue_timeout_s: float = 10.0
    strategy: Strategy = "weighted"
    filters: ContentFilter | None = None
