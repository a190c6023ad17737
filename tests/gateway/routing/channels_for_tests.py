"""Channels and other values that the routing tests share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from slipway.gateway.routing import Channel
from slipway.gateway.routing.breaker import BreakerRules
from slipway.gateway.routing.breakers import Breakers
from slipway.gateway.routing.live import Live

MODEL = "m"


def channel(number: int, **more: Any) -> Channel:
    values = {"models": {MODEL: f"m-{number}"}, **more}
    return Channel(number, f"c{number}", "slipway", "http://x", "loopback", **values)


def live(rules: BreakerRules | None = None, **more: Any) -> Live:
    return Live(Breakers(lambda: 0.0, rules), **more)


def numbers(seed: int = 0) -> Callable[[], float]:
    return random.Random(seed).random
