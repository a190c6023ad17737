"""Server-sent events as they pass through: cut at event ends, read, and otherwise untouched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from slipway.gateway.pricing import Usage, estimate_tokens, usage_from

# an event ends with an empty line; lines may end in CRLF, LF or CR
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
# an event larger than this is not the usage event, so it need not be held until it is whole
_LARGE_EVENT_BYTES = 64 * 1024
_LARGEST_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLargeError(Exception):
    """An event that must be held until it is whole grew beyond all measure."""


class StreamReader:
    """Watches a chat or completion stream on its way to the client.

    `feed` gives back the bytes to forward: whole events, byte for byte, except the usage event
    when `strip_usage` is set. Only an event that grows very large is forwarded before its end. So
    when the upstream breaks off inside an event, an error event can follow where it began.

    Attributes:
        usage: what the upstream reported, as soon as it did.
        finished: the upstream said that the answer is complete (finish reason or `[DONE]`).
        done: `[DONE]` was read.
        error: the upstream sent an error event.
    """

    def __init__(self, *, strip_usage: bool) -> None:
        self._strip_usage = strip_usage
        self._whole = False
        self._pending = bytearray()
        self._searched = 0
        self._forwarded = 0  # bytes of the pending event that the client has already
        self._text: list[str] = []
        self._pieces = 0
        self.usage: Usage | None = None
        self.finished = False
        self.done = False
        self.error = False

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the upstream; give the bytes for the client."""
        self._pending += chunk
        out = bytearray()
        for event in self._events():
            keep = self._read(event)
            out += event[self._forwarded :] if keep or self._forwarded else b""
            self._forwarded = 0
        if self._whole and len(self._pending) > _LARGEST_EVENT_BYTES:
            raise EventTooLargeError
        if len(self._pending) > _LARGE_EVENT_BYTES and not self._whole:
            out += self._pending[self._forwarded :]
            self._forwarded = len(self._pending)
        return bytes(out)

    def hold_whole_events(self) -> None:
        """Forward no part of an event; one beyond all measure is an upstream's fault then."""
        self._whole = True

    @property
    def inside_event(self) -> bool:
        """Whether the client has the beginning of an event and not its end."""
        return self._forwarded > 0

    def end(self) -> bytes:
        """The upstream closed in order; give the bytes of a last event without an empty line."""
        rest = bytes(self._pending)
        self._pending.clear()
        keep = self._read(rest) if rest.strip() else True
        return rest[self._forwarded :] if keep or self._forwarded else b""

    def generated(self) -> int:
        """About how many tokens were generated so far.

        Each piece of text is at least one token, and servers that stream token by token send
        exactly one in each.
        """
        return max(self._pieces, estimate_tokens("".join(self._text)))

    @property
    def text(self) -> str:
        """All that was generated so far, reasoning and arguments of tool calls included."""
        return "".join(self._text)

    def _events(self) -> Iterator[bytes]:
        while match := _EVENT_END.search(self._pending, self._searched):
            event = bytes(self._pending[: match.end()])
            del self._pending[: match.end()]
            self._searched = 0
            yield event
        # the end of an event may be split between chunks
        self._searched = max(0, len(self._pending) - 3)

    def _read(self, event: bytes) -> bool:
        """Note what an event says; False when the client must not see it."""
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
        )
        if data.strip() == b"[DONE]":
            self.done = self.finished = True
            return True
        try:
            value = orjson.loads(data) if data else None
        except orjson.JSONDecodeError:
            return True
        if not isinstance(value, dict):
            return True
        self.error = self.error or "error" in value
        usage = usage_from(value.get("usage"))
        self.usage = usage or self.usage
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._read_choice(choice)
        return not (self._strip_usage and usage is not None and not choices)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        self.finished = self.finished or bool(choice.get("finish_reason"))
        delta = choice.get("delta")
        for text in _texts(delta if isinstance(delta, dict) else {"text": choice.get("text")}):
            self._text.append(text)
            self._pieces += 1


def events_of(data: bytes) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Whole events, each with its JSON object; None where there is none, as for `[DONE]`."""
    at = 0
    while at < len(data):
        match = _EVENT_END.search(data, at)
        end = match.end() if match else len(data)
        event, at = data[at:end], end
        text = b"\n".join(
            line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
        )
        try:
            value = orjson.loads(text) if text else None
        except orjson.JSONDecodeError:
            value = None
        yield event, value if isinstance(value, dict) else None


def answer_estimate(value: Any) -> int:
    """About how many tokens were generated in a whole answer that does not say."""
    choices = value.get("choices") if isinstance(value, dict) else None
    total = 0
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict):
            message = choice.get("message")
            parts = _texts(message if isinstance(message, dict) else choice)
            total += estimate_tokens("".join(parts))
    return total


def _texts(delta: dict[str, Any]) -> Iterator[str]:
    """The generated text in a delta: answer, reasoning, and the arguments of tool calls."""
    for key in ("content", "text", "reasoning_content", "reasoning", "refusal"):
        if isinstance(text := delta.get(key), str) and text:
            yield text
    for call in delta.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
            yield text
