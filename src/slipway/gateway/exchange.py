"""One relayed request from admission to its entry in the books."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from slipway.gateway.accounts import Token, authenticate
from slipway.gateway.adapters import Endpoint
from slipway.gateway.channels import load_channels, load_price, upstream_key
from slipway.gateway.clock import now_ms
from slipway.gateway.ledger import release, reserve, settle
from slipway.gateway.limits import RequestWindow
from slipway.gateway.pricing import Price, Usage, cost_micro, most_tokens
from slipway.gateway.problems import model_not_allowed, model_not_found, rate_limited
from slipway.gateway.routing import Channel, Target, plan, resolve_model
from slipway.gateway.store import Store
from slipway.gateway.usage import RequestRecord, record

CLIENT_LEFT = 499


@dataclass(slots=True)
class Call:
    """A request as it came.

    Attributes:
        raw: the body's bytes; `body` is the same, parsed.
        started: `time.perf_counter()` at its arrival; `created_at` is UTC milliseconds.
    """

    request_id: str
    client_request_id: str | None
    endpoint: Endpoint
    key: str | None
    raw: bytes
    body: dict[str, Any]
    model: str
    started: float
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
        targets: channels in the order to try, each with the channel's own key.
        channel: the one that answered.
        usage: what to bill; None to bill nothing.
    """

    call: Call
    token: Token
    model: str
    price: Price | None
    targets: list[tuple[Target, str | None]]
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


def admit(store: Store, window: RequestWindow, call: Call) -> Exchange:
    """Check key, model, rate and budget, choose channels, and reserve the request's cost.

    Raises:
        ApiError: the request is refused; nothing is reserved then.
    """
    with store.read() as db:
        token = authenticate(db, call.key, call.created_at)
        channels = load_channels(db)
        model = resolve_model(channels, call.model)
        price = load_price(db, model) if model else None
    if token.rpm is not None and (wait_s := window.take(token.id, token.rpm)):
        raise rate_limited(token.rpm, wait_s)
    if not token.allows(call.model) and not (model and token.allows(model)):
        raise model_not_allowed(call.model)
    if model is None:
        raise model_not_found(call.model)
    targets = [
        (target, upstream_key(store, target.channel))
        for target in plan(channels, model, [random.random() for _ in channels])
    ]
    most = cost_micro(most_tokens(call.body), price)
    with store.write() as db:
        reserve(db, call.request_id, token, most, model=model, endpoint=call.endpoint)
    return Exchange(call, token, model, price, targets)


def close(store: Store, done: Exchange) -> RequestRecord | None:
    """Settle or release the reserve and log the request, in one transaction.

    Returns:
        the logged row; None when the request had been closed already.
    """
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
    with store.write() as db:
        if done.usage is not None and done.channel is not None:
            ended = settle(db, row.request_id, cost, done.channel.id)
        else:
            ended = release(db, row.request_id)
        if ended:
            record(db, row)
    return row if ended else None


def elapsed_ms(started: float) -> int:
    """Milliseconds since a `time.perf_counter()` reading."""
    return round((time.perf_counter() - started) * 1000)
