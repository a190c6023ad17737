"""Time as the gateway stores it: UTC milliseconds since 1970."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def now_ms() -> int:
    """The time now."""
    return time.time_ns() // 1_000_000


def to_rfc3339(at_ms: int | None) -> str | None:
    """A stored time as `2026-01-31T08:00:00.000Z`; None stays None."""
    if at_ms is None:
        return None
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_lifetime(text: str) -> int:
    """A lifetime like `30d`, `12h` or `45m` in milliseconds.

    Raises:
        UsageError: another form, or not positive.
    """
    match = re.fullmatch(r"(\d{1,6})([mhd])", text.strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(
            "gateway.bad_lifetime",
            tr("`{text}` is not a lifetime", text=text),
            tr("write a number and `m`, `h` or `d`, for example `30d`"),
        )
    return int(match[1]) * _UNIT_MS[match[2]]
