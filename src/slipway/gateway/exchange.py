"""One relayed request from admission to its entry in the books."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from slipway.gateway.accounts import Token
from slipway.gateway.adapters import Endpoint
from slipway.gateway.books import Books, Ending, Reserve, StaleError
from slipway.gateway.clock import now_ms
from slipway.gateway.directory import Catalogue, Directory
from slipway.gateway.limits import RequestWindow
from slipway.gateway.pricing import Price, Usage, cost_micro, most_tokens
from slipway.gateway.problems import (
    ApiError,
    model_not_allowed,
    model_not_found,
    rate_limited,
)
from slipway.gateway.routing import Channel, Target, plan
from slipway.gateway.usage import RequestRecord

CLIENT_LEFT = 499


@dataclass(slots=True)
class Call:
    """A request as it came.

    Attributes:
        raw: the body's bytes; `body` is the same, parsed.
        started: `time.perf_counter()` at its arrival; `created_at` is UTC milliseconds.
        counted: it is in its token's rate already.
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
    counted: bool = False

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
        targets: channels in the order to try.
        channel: the one that answered.
        usage: what to bill; None to bill nothing.
    """

    call: Call
    token: Token
    model: str
    price: Price | None
    catalogue: Catalogue
    targets: list[Target]
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


async def admit(directory: Directory, books: Books, window: RequestWindow, call: Call) -> Exchange:
    """Check key, model, rate and budget, choose channels, and reserve the request's cost.

    Raises:
        ApiError: the request is refused; nothing is reserved then.
    """
    newest = -1
    while True:
        catalogue = await directory.catalogue(newest)
        try:
            token = (await directory.key(call.key, call.created_at)).token
            model = _allowed_model(catalogue, token, call.model)
        except ApiError:
            newest = await directory.newest()
            if newest == catalogue.revision:
                raise
            continue
        if token.rpm is not None and not call.counted:
            if wait := window.take(token.id, token.rpm):
                raise rate_limited(token.rpm, wait)
            call.counted = True
        price = catalogue.prices.get(model)
        entry = Reserve(
            call.request_id,
            token.id,
            cost_micro(most_tokens(call.body), price) if price is not None else 0,
            model,
            call.endpoint,
            call.created_at,
            catalogue.revision,
        )
        try:
            await books.reserve(entry)
        except StaleError as stale:
            newest = stale.revision
            continue
        channels = catalogue.by_model[model]
        targets = plan(channels, model, [random.random() for _ in channels])
        return Exchange(call, token, model, price, catalogue, targets)


def _allowed_model(catalogue: Catalogue, token: Token, asked: str) -> str:
    model = catalogue.resolve(asked)
    if not token.allows(asked) and not (model and token.allows(model)):
        raise model_not_allowed(asked)
    if model is None:
        raise model_not_found(asked)
    return model


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
