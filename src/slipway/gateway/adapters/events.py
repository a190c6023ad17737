"""Server-sent events that are translated: held until they are whole, then read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from slipway.gateway.sse import events_of

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
# no event of these protocols is larger, pictures included
_LARGEST_EVENT_BYTES = 64 << 20
_TOO_LARGE: dict[str, Any] = {
    "type": "error",
    "error": {"type": "api_error", "message": "The upstream sent an event without an end."},
}


class Events:
    """Cuts a stream into its events' JSON objects."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._searched = 0

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._pending.strip())

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that became whole with these bytes."""
        self._pending += chunk
        while match := _EVENT_END.search(self._pending, self._searched):
            event = bytes(self._pending[: match.end()])
            del self._pending[: match.end()]
            self._searched = 0
            yield from _values(event)
        self._searched = max(0, len(self._pending) - 3)
        if len(self._pending) > _LARGEST_EVENT_BYTES:
            self._pending.clear()
            self._searched = 0
            yield _TOO_LARGE

    def end(self) -> Iterator[dict[str, Any]]:
        """The object of a last event without an empty line."""
        rest = bytes(self._pending)
        self._pending.clear()
        yield from _values(rest)


def _values(data: bytes) -> Iterator[dict[str, Any]]:
    return (value for _, value in events_of(data) if value is not None)


def data_event(value: dict[str, Any]) -> bytes:
    """An event as OpenAI's streams have it."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """An event as Anthropic's streams have it: its type is also its name."""
    return b"event: " + str(value["type"]).encode() + b"\n" + data_event(value)


def mapping(value: object) -> dict[str, Any]:
    """The value when it is an object, else an empty one: upstreams leave out what is empty."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list; nothing when it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
