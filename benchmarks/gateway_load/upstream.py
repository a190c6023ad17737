"""An upstream of constant latency that is never the bottleneck: OpenAI chat over a bare protocol.

    python -m gateway_load.upstream [--latency-ms 0]

It prints its port and serves until its standard input ends. Answers are made once and only
written. A stream's events are written one in each turn of the event loop, as from an engine that
gives token by token, so that many streams interleave. `max_tokens` is the number of events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import httptools
import orjson

PROMPT_TOKENS = 9
PIECE = " token"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    value = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": choices,
        **more,
    }
    return _chunk(b"data: " + orjson.dumps(value) + b"\n\n")


def _delta(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": reason}])


def whole_answer() -> bytes:
    """The answer that does not stream, head and body."""
    body = orjson.dumps(
        {
            "id": "chatcmpl-benchmark",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello" + PIECE * 15},
                    "finish_reason": "stop",
                }
            ],
            "usage": _usage(16),
        }
    )
    return _HEAD + b"application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


_WHOLE = whole_answer()
_STREAM_HEAD = _HEAD + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIRST = _delta({"role": "assistant", "content": "Hello"})
# not all alike: LiteLLM ends a stream that repeats itself
_NEXT = [_delta({"content": f"{PIECE}{number}"}) for number in range(10)]
_LAST = _delta({}, "stop")
_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def stream_parts(events: int, with_usage: bool) -> Iterator[bytes]:
    """What is written one after the other; `events` pieces of text between head and end."""
    yield _STREAM_HEAD + _FIRST
    for number in range(events - 1):
        yield _NEXT[number % len(_NEXT)]
    yield _LAST
    if with_usage:
        yield _event([], usage=_usage(events))
    yield _END


class Upstream(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._parts: Iterator[bytes] | None = None
        self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        asked = orjson.loads(b"".join(self._body) or b"{}")
        self._body.clear()
        if self._latency_s:
            self._loop.call_later(self._latency_s, self._answer, asked)
        else:
            self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        if not asked.get("stream"):
            self._transport.write(_WHOLE)
            return
        options = asked.get("stream_options") or {}
        events = asked.get("max_tokens") or 16
        self._parts = stream_parts(events, bool(options.get("include_usage")))
        self._write_next()

    def _write_next(self) -> None:
        if self._paused or self._parts is None or self._transport.is_closing():
            return
        part = next(self._parts, None)
        if part is None:
            self._parts = None
            return
        self._transport.write(part)
        self._loop.call_soon(self._write_next)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write_next()


async def serve(latency_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(latency_s), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args()
    uvloop.run(serve(options.latency_ms / 1000))


if __name__ == "__main__":
    main()
