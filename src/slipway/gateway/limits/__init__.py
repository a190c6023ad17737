"""Limits of tokens, users, groups and models: rates, concurrency, and budgets of a period.

`rules` keeps what an administrator set; `gate` counts requests and tokens of the last minute and
what runs now, in this process; budgets are money, so they are checked where money is booked.
"""

from __future__ import annotations

from slipway.gateway.limits.gate import Gate, Pass
from slipway.gateway.limits.rules import (
    Limit,
    LimitRow,
    Scope,
    list_limits,
    load_limits,
    remove_limit,
    set_limit,
)

__all__ = [
    "Gate",
    "Limit",
    "LimitRow",
    "Pass",
    "Scope",
    "list_limits",
    "load_limits",
    "remove_limit",
    "set_limit",
]
