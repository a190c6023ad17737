"""A load generator that is lighter than what it loads: keep-alive connections, callbacks only.

One `Worker` is one connection with one request at a time (a closed loop). Nothing is decoded but
the framing; a stream's events are counted in the bytes when it has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import orjson


@dataclass(frozen=True)
class Target:
    """Where requests go, and the headers that this place wants."""

    name: str
    port: int
    headers: dict[str, str]
    keys: tuple[str, ...] = ("none",)
    models: tuple[str, ...] = ("bench",)

    def payloads(self, *, events: int = 0) -> list[bytes]:
        """Whole HTTP requests, one for each key and model in turn; streams when `events` is set."""
        more = {"stream": True, "max_tokens": events} if events else {"max_tokens": 64}
        count = max(len(self.keys), len(self.models))
        return [
            self._payload(self.keys[n % len(self.keys)], self.models[n % len(self.models)], more)
            for n in range(count)
        ]

    def _payload(self, key: str, model: str, more: dict[str, Any]) -> bytes:
        messages = [
            {"role": "system", "content": "You are a helpful assistant of a parcel service."},
            {"role": "user", "content": "Where is my parcel? It should have come on Monday."},
        ]
        body = orjson.dumps({"model": model, "messages": messages, **more})
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass
class Load:
    """What a group of workers has measured.

    Attributes:
        seconds: of each whole answer; `first_s` until its first byte of body.
        events: `data:` lines of all streams.
        answers: all of them, skipped ones too.
        wall_s: from the first request of all to the last answer.
    """

    seconds: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    events: int = 0
    answers: int = 0
    wall_s: float = 0.0


class Worker(asyncio.Protocol):
    """One connection, which asks again as soon as it has an answer.

    Args:
        next_payload: gives the next request, or None when it is enough.
        done: a future that gets the result or the failure.
    """

    def __init__(
        self,
        load: Load,
        next_payload: Callable[[], bytes | None],
        streams: bool,
        done: asyncio.Future[None],
    ) -> None:
        self._load = load
        self._next_payload = next_payload
        self._streams = streams
        self._done = done
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        payload = self._next_payload()
        if payload is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._first = 0.0
        self._began = time.perf_counter()
        self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP answer: {error}")

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        ended = time.perf_counter()
        body = b"".join(self._parts)
        self._parts.clear()
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"HTTP {status}: {body[:300]!r}")
            return
        if self._streams:
            if b"[DONE]" not in body[-64:]:
                self._fail(f"the stream has no end: {body[-300:]!r}")
                return
            self._load.events += body.count(b"data: {")
        self._load.seconds.append(ended - self._began)
        self._load.first_s.append((self._first or ended) - self._began)
        if not self._parser.should_keep_alive():
            self._fail("the connection is not kept alive")
            return
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was lost: {error}")

    def _fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(RuntimeError(reason))
            self._transport.close()


async def run(
    target: Target,
    *,
    connections: int = 1,
    requests: int | None = None,
    seconds: float | None = None,
    events: int = 0,
    skip: int = 0,
) -> Load:
    """Load a target until so many requests were sent or so many seconds are over.

    Args:
        events: ask for streams of so many events.
        skip: leave so many first answers out of `seconds` and `first_s`.
    """
    loop = asyncio.get_running_loop()
    payloads = target.payloads(events=events)
    deadline = None if seconds is None else time.perf_counter() + seconds
    sent = 0

    def next_payload() -> bytes | None:
        nonlocal sent
        if requests is not None and sent >= requests:
            return None
        if deadline is not None and time.perf_counter() >= deadline:
            return None
        sent += 1
        return payloads[sent % len(payloads)]

    load = Load()
    waits: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    began = time.perf_counter()
    for wait in waits:
        await loop.create_connection(
            lambda wait=wait: Worker(load, next_payload, events > 0, wait), "127.0.0.1", target.port
        )
    try:
        await asyncio.gather(*waits)
    except RuntimeError as error:
        raise RuntimeError(f"{target.name}: {error}") from error
    load.wall_s = time.perf_counter() - began
    load.answers = len(load.seconds)
    del load.seconds[:skip], load.first_s[:skip]
    return load
