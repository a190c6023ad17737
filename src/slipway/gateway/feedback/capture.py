"""Watches the answers of requests that may be kept, and keeps them after the client has them.

The tap stands where bytes go to the client, so what is kept is what the client got. While the
answer passes it only collects; reading, masking and writing happen in a thread of its own.
Requests without consent have no tap.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import Message, Send

from slipway.gateway.exchange import Exchange
from slipway.gateway.feedback.consent import ALL_BP, Consent
from slipway.gateway.feedback.keep import purge_expired, save_capture
from slipway.gateway.store import Store

log = logging.getLogger("slipway.gateway")

_HEADER = b"x-slipway-capture"
_NO = (b"no", b"off", b"false", b"0")
_ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
Relay = Callable[[Exchange, Send], Awaitable[None]]
_MOST_WAITING = 256
_PURGE_EVERY_S = 600


def forbids(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request forbids to keep it: `x-slipway-capture: no`."""
    return headers.get(_HEADER, b"").strip().lower() in _NO


def tap_of(exchange: Exchange, send: Send) -> Tap | None:
    """A tap for a request that is to be kept; None without consent or when the lot skips it."""
    consent = exchange.token.capture
    if consent is None or not exchange.call.may_capture:
        return None
    if exchange.call.endpoint not in _ENDPOINTS or random.randrange(ALL_BP) >= consent.share_bp:
        return None
    if len(exchange.call.raw) > consent.max_bytes:
        return None
    return Tap(exchange, consent, send)


class Tap:
    """Passes an answer on and collects it, up to the size that was agreed."""

    def __init__(self, exchange: Exchange, consent: Consent, send: Send) -> None:
        self.exchange = exchange
        self.consent = consent
        self.parts: list[bytes] = []
        self._left = consent.max_bytes - len(exchange.call.raw)
        self._send = send

    @property
    def complete(self) -> bool:
        """Whether the answer ended well and was not too large."""
        ended_well = self.exchange.closed and self.exchange.error is None
        return ended_well and self._left >= 0 and bool(self.parts)

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        body = message.get("body", b"")
        self._left -= len(body)
        if self._left < 0:
            self.parts.clear()
        elif body:
            self.parts.append(body)
        await self._send(message)


class Captures:
    """Keeps what was tapped; one for each event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._purged = time.monotonic()

    async def watch(self, exchange: Exchange, send: Send, relay: Relay) -> None:
        """Relay a request, and keep its answer when that is wanted."""
        tap = tap_of(exchange, send)
        if tap is None:
            await relay(exchange, send)
            return
        try:
            await relay(exchange, tap.send)
        finally:
            # also when the client went as soon as it had the whole answer
            self.keep(tap)

    def keep(self, tap: Tap) -> None:
        """Keep an answer some time soon; nobody waits for it."""
        if not tap.complete:
            return
        if self._waiting >= _MOST_WAITING:
            log.warning("%s is not captured: too many wait", tap.exchange.call.request_id)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-capture")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._thread, self._save, tap).add_done_callback(self._done)

    async def close(self) -> None:
        """Write what waits."""
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    def _done(self, _future: Any) -> None:
        self._waiting -= 1

    def _save(self, tap: Tap) -> None:
        exchange = tap.exchange
        try:
            save_capture(
                self._store,
                request_id=exchange.call.request_id,
                user_id=exchange.token.user_id,
                model=exchange.model,
                asked=exchange.call.body,
                answer=b"".join(tap.parts),
                created_at=exchange.call.created_at,
                days=tap.consent.days,
            )
            if time.monotonic() - self._purged > _PURGE_EVERY_S:
                self._purged = time.monotonic()
                purge_expired(self._store)
        except Exception as error:
            # its text could hold what must not be logged
            log.error("%s is not captured: %s", exchange.call.request_id, type(error).__name__)
