"""One relayed request from admission to its entry in the books."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from slipway.gateway.accounts import Token
from slipway.gateway.adapters import Endpoint
from slipway.gateway.books import Ending
from slipway.gateway.clock import now_ms
from slipway.gateway.directory import Catalogue
from slipway.gateway.limits import Pass
from slipway.gateway.pricing import Price, Usage, cost_micro
from slipway.gateway.routing import Channel
from slipway.gateway.usage import RequestRecord

CLIENT_LEFT = 499


@dataclass(slots=True)
class Call:
    """A request as it came.

    Attributes:
        raw: the body's bytes; `body` is the same, parsed.
        started: `time.perf_counter()` at its arrival; `created_at` is UTC milliseconds.
        address: the caller's.
        may_capture: False when the request itself forbids to keep it.
    """

    request_id: str
    client_request_id: str | None
    endpoint: Endpoint
    key: str | None
    raw: bytes
    body: dict[str, Any]
    model: str
    started: float
    address: str = ""
    may_capture: bool = True
    created_at: int = field(default_factory=now_ms)

    @property
    def stream(self) -> bool:
        """Whether the client asked for a stream."""
        return bool(self.body.get("stream"))


@dataclass(slots=True)
class Exchange:
    """An admitted request: its reserve is held until `close` is called.

    Attributes:
        model: the name under which the channels offer what was asked for.
        catalogue: by which it was admitted.
        ticket: of the gate that counts it; None when no limit holds for it.
        channel: the one that answered.
        usage: what to bill; None to bill nothing.
    """

    call: Call
    token: Token
    model: str
    price: Price | None
    catalogue: Catalogue
    ticket: Pass | None = None
    channel: Channel | None = None
    usage: Usage | None = None
    status: int = 200
    error: str | None = None
    ttft_ms: int | None = None
    closed: bool = False

    def first_byte(self) -> None:
        """Note the time of the answer's first byte."""
        if self.ttft_ms is None:
            self.ttft_ms = elapsed_ms(self.call.started)

    def failed(self, status: int, code: str | None) -> None:
        """Note how the request failed."""
        self.status, self.error = status, code or "error"


def ending(done: Exchange) -> Ending:
    """What the books are told of a request that is over."""
    usage = done.usage or Usage()
    cost = cost_micro(usage, done.price)
    row = RequestRecord(
        request_id=done.call.request_id,
        client_request_id=done.call.client_request_id,
        created_at=done.call.created_at,
        user_id=done.token.user_id,
        token_id=done.token.id,
        channel_id=done.channel.id if done.channel else None,
        model=done.model,
        endpoint=done.call.endpoint,
        usage=usage,
        cost_micro=cost,
        priced=done.price is not None,
        status=done.status,
        error=done.error,
        stream=done.call.stream,
        ttft_ms=done.ttft_ms,
        duration_ms=elapsed_ms(done.call.started),
    )
    return Ending(row, done.usage is not None and done.channel is not None, now_ms())


def elapsed_ms(started: float) -> int:
    """Milliseconds since a `time.perf_counter()` reading."""
    return round((time.perf_counter() - started) * 1000)


def new_request_id() -> str:
    """A fresh request id."""
    return f"req_{uuid.uuid4().hex}"
