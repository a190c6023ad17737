"""OpenAI's chat answers and streams as Anthropic's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from slipway.gateway.adapters.events import Events, mapping, named_event, objects
from slipway.gateway.pricing import Usage, usage_from
from slipway.gateway.sse import StreamReader

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def message_usage(usage: Usage) -> dict[str, int]:
    """A usage object as Anthropic's answers have it."""
    return {
        "input_tokens": max(0, usage.prompt - usage.cached - usage.cache_write),
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.cache_write,
        "output_tokens": usage.completion,
    }


def message_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """A whole chat completion as a message."""
    choice = next(iter(objects(answer.get("choices"))), {})
    said = mapping(choice.get("message"))
    blocks: list[dict[str, Any]] = []
    if thought := said.get("reasoning_content") or said.get("reasoning"):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := said.get("content") or said.get("refusal"):
        blocks.append({"type": "text", "text": text})
    for call in objects(said.get("tool_calls")):
        function = mapping(call.get("function"))
        used = {"id": call.get("id"), "name": function.get("name")}
        blocks.append({"type": "tool_use", **used, "input": _arguments(function)})
    return {
        "id": answer.get("id"),
        "type": "message",
        "role": "assistant",
        "model": answer.get("model"),
        "content": blocks,
        "stop_reason": _STOP.get(str(choice.get("finish_reason")), "end_turn"),
        "stop_sequence": None,
        "usage": message_usage(usage_from(answer.get("usage")) or Usage()),
    }


def message_error(value: dict[str, Any], status: int) -> dict[str, Any]:
    """An error as Anthropic's answers have it."""
    error = value.get("error", value)
    message = error.get("message") if isinstance(error, dict) else str(error)
    kind = _ERRORS.get(status, "api_error")
    said = message or "The model's server failed."
    return {"type": "error", "error": {"type": kind, "message": said}}


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments; text that a model made of them which is no object is kept by name."""
    text = function.get("arguments") or "{}"
    try:
        value = orjson.loads(text)
    except (orjson.JSONDecodeError, TypeError):
        value = None
    return value if isinstance(value, dict) else {"arguments": text}


class MessagesFromChat:
    """Translates a chat completion's stream into a message's.

    Blocks of text and thought end when another begins. Calls stay open until the end, because
    OpenAI's protocol lets several grow at once.
    """

    def __init__(self) -> None:
        self._reader = StreamReader(strip_usage=False)
        self._events = Events()
        self._begun = False
        self._ended = False
        self._blocks = 0
        self._open: tuple[str, int] | None = None  # text or thinking, and its block's index
        self._calls: dict[int, int] = {}  # index of the call -> index of its block
        self._stop_reason = "end_turn"

    @property
    def usage(self) -> Usage | None:
        """What the upstream reported."""
        return self._reader.usage

    @property
    def finished(self) -> bool:
        """The upstream said that the answer is complete."""
        return self._reader.finished

    @property
    def done(self) -> bool:
        """`[DONE]` was read."""
        return self._reader.done

    @property
    def error(self) -> bool:
        """The upstream sent an error event."""
        return self._reader.error

    @property
    def text(self) -> str:
        """All that was generated so far."""
        return self._reader.text

    @property
    def inside_event(self) -> bool:
        """Never: only whole events are given out."""
        return False

    def generated(self) -> int:
        """About how many tokens were generated so far."""
        return self._reader.generated()

    def feed(self, chunk: bytes) -> bytes:
        """The events that became known with these bytes."""
        self._reader.feed(chunk)
        out = b"".join(self._translated(self._events.feed(chunk)))
        return out + self._ending() if self._reader.done else out

    def end(self) -> bytes:
        """The last events; none of the ending when the upstream never came to it."""
        self._reader.end()
        out = b"".join(self._translated(self._events.end()))
        return out + self._ending() if self._reader.finished else out

    def _translated(self, events: Iterable[dict[str, Any]]) -> Iterable[bytes]:
        for event in events:
            if "error" in event:
                yield named_event(message_error(event, 500))
                continue
            if not self._begun:
                yield self._start(event)
            for choice in objects(event.get("choices"))[:1]:
                yield from self._delta(mapping(choice.get("delta")))
                if reason := choice.get("finish_reason"):
                    self._stop_reason = _STOP.get(reason, "end_turn")

    def _start(self, event: dict[str, Any]) -> bytes:
        self._begun = True
        message: dict[str, Any] = {
            "id": event.get("id"),
            "type": "message",
            "role": "assistant",
            "model": event.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": message_usage(Usage()),  # known at the end only
        }
        return named_event({"type": "message_start", "message": message})

    def _delta(self, delta: dict[str, Any]) -> Iterable[bytes]:
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            block = yield from self._block({"type": "thinking", "thinking": "", "signature": ""})
            yield _block_delta(block, {"type": "thinking_delta", "thinking": thought})
        if text := delta.get("content") or delta.get("refusal"):
            block = yield from self._block({"type": "text", "text": ""})
            yield _block_delta(block, {"type": "text_delta", "text": text})
        for place, call in enumerate(objects(delta.get("tool_calls"))):
            function = mapping(call.get("function"))
            index = call.get("index", place)
            if index not in self._calls:
                yield from self._close()
                used: dict[str, Any] = {
                    "id": call.get("id"),
                    "name": function.get("name"),
                    "input": {},
                }
                self._calls[index] = self._blocks
                yield self._begin({"type": "tool_use", **used})
            if text := function.get("arguments"):
                told = {"type": "input_json_delta", "partial_json": text}
                yield _block_delta(self._calls[index], told)

    def _block(self, block: dict[str, Any]) -> Any:
        """The index of the open block of this kind, begun if need be."""
        if self._open is None or self._open[0] != block["type"]:
            yield from self._close()
            self._open = (block["type"], self._blocks)
            yield self._begin(block)
        return self._open[1]

    def _begin(self, block: dict[str, Any]) -> bytes:
        index, self._blocks = self._blocks, self._blocks + 1
        return named_event({"type": "content_block_start", "index": index, "content_block": block})

    def _close(self) -> Iterable[bytes]:
        if self._open is not None:
            yield named_event({"type": "content_block_stop", "index": self._open[1]})
            self._open = None

    def _ending(self) -> bytes:
        if self._ended or not self._begun or self._reader.error:
            return b""
        self._ended = True
        closed = b"".join(self._close()) + b"".join(
            named_event({"type": "content_block_stop", "index": block})
            for block in self._calls.values()
        )
        usage = message_usage(self._reader.usage or Usage(completion=self.generated()))
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        ending = named_event({"type": "message_delta", "delta": delta, "usage": usage})
        return closed + ending + named_event({"type": "message_stop"})


def _block_delta(index: int, delta: dict[str, Any]) -> bytes:
    return named_event({"type": "content_block_delta", "index": index, "delta": delta})
