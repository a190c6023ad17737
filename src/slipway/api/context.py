"""What is known of the request that is being handled: who asks, how long it waits, what it took.

Set by `Front` for each request; read wherever the handler's code runs, without being handed down.
"""

from __future__ import annotations

import hashlib
import math
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.requests import Request

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.engine.settings import parse_duration

CALLER_HEADER = "x-slipway-caller"
PATIENCE_HEADER = "x-slipway-queue-timeout"


@dataclass(slots=True)
class RequestInfo:
    """One request.

    Attributes:
        id: given by the client or made here.
        caller: requests of different callers take turns in a model's queue.
        patience_s: seconds it may wait for its turn; None is the setting's.
        timings: milliseconds by phase (queue, load, first, prompt, completion), as they come.
        queue_position: its place when it came, from 1; 0 when it did not wait.
        headers: more headers for the answer, set before it begins.
        chinese: the reader's language is Chinese, so errors are told in it, too.
    """

    id: str = ""
    caller: str = ""
    patience_s: float | None = None
    timings: dict[str, float] = field(default_factory=dict)
    queue_position: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chinese: bool = False

    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer's head says of the way the request went."""
        found = dict(self.headers)
        if self.timings:
            parts = (f"{name};dur={value:.1f}" for name, value in self.timings.items())
            found["server-timing"] = ", ".join(parts)
        if self.queue_position:
            found["x-slipway-queue-position"] = str(self.queue_position)
        return [(name.encode(), value.encode()) for name, value in found.items()]


_current: ContextVar[RequestInfo | None] = ContextVar("slipway_request", default=None)


def current() -> RequestInfo:
    """The request that is being handled; an empty one outside of any."""
    return _current.get() or RequestInfo()


def enter(info: RequestInfo) -> None:
    """Make it the current request of this task and of the tasks it starts."""
    _current.set(info)


def caller_of(request: Request) -> str:
    """For whom a request is: a header of the gateway's, the key that came along, or the address.

    The key is known here only by a digest.
    """
    if given := request.headers.get(CALLER_HEADER):
        return given[:128]
    key = request.headers.get("authorization") or request.headers.get("x-api-key")
    if key:
        return hashlib.sha256(key.encode()).hexdigest()[:16]
    return request.client.host if request.client else ""


def patience_of(request: Request) -> float | None:
    """How long a request says that it would wait for its turn, seconds.

    Raises:
        UsageError: the header is no duration.
    """
    text = request.headers.get(PATIENCE_HEADER)
    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UsageError(
            "request.bad_header",
            tr("header {header}: `{value}` is no duration", header=PATIENCE_HEADER, value=text),
            tr("write seconds, or Go's notation such as `30s`"),
        )
    return seconds
