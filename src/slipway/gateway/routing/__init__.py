"""Routing: where a request may go, what a failure means, and why."""

from __future__ import annotations

from slipway.gateway.routing.channel import (
    LOCAL_KINDS,
    Channel,
    ChannelKind,
    Target,
    resolve_model,
)
from slipway.gateway.routing.strategy import plan

__all__ = ["LOCAL_KINDS", "Channel", "ChannelKind", "Target", "plan", "resolve_model"]
