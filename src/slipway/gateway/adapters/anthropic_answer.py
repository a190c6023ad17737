"""Anthropic's answers and streams as OpenAI's, and their usage.

Source: Anthropic's "Messages" API reference and "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from slipway.gateway.adapters.events import Events, data_event, mapping, objects
from slipway.gateway.pricing import Usage, estimate_tokens

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def usage_of(reported: object) -> Usage | None:
    """Anthropic's `usage`, whose `input_tokens` leave out what a cache gave or took."""
    said = mapping(reported)
    if not isinstance(said.get("input_tokens"), int | None) or "output_tokens" not in said:
        return None
    read, written = (
        _number(said, "cache_read_input_tokens"),
        _number(said, "cache_creation_input_tokens"),
    )
    thought = _number(mapping(said.get("output_tokens_details")), "thinking_tokens")
    return Usage(
        prompt=_number(said, "input_tokens") + read + written,
        completion=_number(said, "output_tokens"),
        cached=read,
        cache_write=written,
        reasoning=thought,
    )


def chat_usage(usage: Usage) -> dict[str, Any]:
    """A usage object as OpenAI's answers have it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def chat_answer(message: dict[str, Any], usage: Usage | None, created: int) -> dict[str, Any]:
    """A whole message as a chat completion; `created` is in Unix seconds."""
    blocks = objects(message.get("content"))
    text = "".join(str(b.get("text", "")) for b in blocks if b.get("type") == "text")
    thought = "".join(str(b.get("thinking", "")) for b in blocks if b.get("type") == "thinking")
    calls = [
        {
            "id": block.get("id"),
            "type": "function",
            "function": {
                "name": block.get("name"),
                "arguments": orjson.dumps(block.get("input") or {}).decode(),
            },
        }
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    said: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if thought:
        said["reasoning_content"] = thought
    if calls:
        said["tool_calls"] = calls
    finish = _FINISH.get(str(message.get("stop_reason")), "stop")
    answer = {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created,
        "model": message.get("model"),
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
    }
    return {**answer, "usage": chat_usage(usage)} if usage else answer


def chat_error(value: dict[str, Any]) -> dict[str, Any]:
    """An error object as OpenAI's answers have it."""
    error = mapping(value.get("error"))
    message = error.get("message") or "The model's server failed."
    kind = error.get("type") or "api_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


class MessagesReader:
    """Watches an Anthropic stream on its way to a client that speaks the same protocol."""

    def __init__(self) -> None:
        self._events = Events()
        self._reported: dict[str, Any] = {}
        self._text: list[str] = []
        self.finished = False
        self.done = False
        self.error = False

    @property
    def usage(self) -> Usage | None:
        """What was reported; before the end with the completion as counted here."""
        usage = usage_of(self._reported)
        if usage is None or self.finished:
            return usage
        completion = max(usage.completion, self.generated())
        return Usage(
            usage.prompt, completion, usage.cached, estimated=True, cache_write=usage.cache_write
        )

    @property
    def text(self) -> str:
        """All that was generated so far."""
        return "".join(self._text)

    @property
    def inside_event(self) -> bool:
        """Whether the client has the beginning of an event and not its end."""
        return self._events.pending

    def generated(self) -> int:
        """About how many tokens were generated so far."""
        return estimate_tokens(self.text)

    def feed(self, chunk: bytes) -> bytes:
        """The same bytes."""
        for event in self._events.feed(chunk):
            self.read(event)
        return chunk

    def end(self) -> bytes:
        """Nothing more: all bytes went out as they came."""
        for event in self._events.end():
            self.read(event)
        return b""

    def read(self, event: dict[str, Any]) -> None:
        """Note what an event says."""
        kind = event.get("type")
        if kind == "message_start":
            self._reported |= mapping(mapping(event.get("message")).get("usage"))
        elif kind == "message_delta":
            told = mapping(event.get("usage"))
            self._reported |= {key: value for key, value in told.items() if value is not None}
            self.finished = self.finished or bool(mapping(event.get("delta")).get("stop_reason"))
        elif kind == "message_stop":
            self.done = self.finished = True
        elif kind == "error":
            self.error = True
        elif kind == "content_block_delta":
            delta = mapping(event.get("delta"))
            for key in ("text", "thinking", "partial_json"):
                if isinstance(said := delta.get(key), str):
                    self._text.append(said)


class ChatFromMessages(MessagesReader):
    """Translates an Anthropic stream into a chat completion's."""

    def __init__(self, *, strip_usage: bool, created: int) -> None:
        super().__init__()
        self._strip_usage = strip_usage
        self._envelope: dict[str, Any] = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": "",
        }
        self._calls: dict[Any, int] = {}  # index of the block -> index of the call
        self._arguments: dict[Any, bool] = {}  # whether the block's arguments have begun

    @property
    def inside_event(self) -> bool:
        """Never: only whole events are given out."""
        return False

    def feed(self, chunk: bytes) -> bytes:
        """The chunks that became known with these bytes."""
        return b"".join(self._translated(self._events.feed(chunk)))

    def end(self) -> bytes:
        """The chunks of a last event without an empty line."""
        return b"".join(self._translated(self._events.end()))

    def _translated(self, events: Iterable[dict[str, Any]]) -> Iterable[bytes]:
        for event in events:
            self.read(event)
            kind = event.get("type")
            if kind == "message_start":
                message = mapping(event.get("message"))
                self._envelope |= {"id": message.get("id"), "model": message.get("model")}
                yield self._chunk({"role": "assistant", "content": ""})
            elif kind == "content_block_start":
                yield from self._block_start(event)
            elif kind == "content_block_delta":
                yield from self._block_delta(event)
            elif kind == "content_block_stop":
                yield from self._block_stop(event)
            elif kind == "message_delta":
                if reason := mapping(event.get("delta")).get("stop_reason"):
                    yield self._chunk({}, _FINISH.get(reason, "stop"))
            elif kind == "message_stop":
                yield from self._stop()
            elif kind == "error":
                yield data_event(chat_error(event))

    def _block_start(self, event: dict[str, Any]) -> Iterable[bytes]:
        block = mapping(event.get("content_block"))
        if block.get("type") == "tool_use":
            index = self._calls[event.get("index")] = len(self._calls)
            function = {"name": block.get("name"), "arguments": ""}
            call = {"index": index, "id": block.get("id"), "type": "function"}
            yield self._chunk({"tool_calls": [{**call, "function": function}]})
        elif block.get("text"):
            yield self._chunk({"content": block["text"]})

    def _block_delta(self, event: dict[str, Any]) -> Iterable[bytes]:
        delta, block = mapping(event.get("delta")), event.get("index")
        if delta.get("text"):
            yield self._chunk({"content": delta["text"]})
        elif delta.get("thinking"):
            yield self._chunk({"reasoning_content": delta["thinking"]})
        elif delta.get("partial_json") and block in self._calls:
            self._arguments[block] = True
            yield self._call_arguments(block, delta["partial_json"])

    def _block_stop(self, event: dict[str, Any]) -> Iterable[bytes]:
        block = event.get("index")
        if block in self._calls and not self._arguments.get(block):
            # a call without arguments; OpenAI's clients parse them as JSON
            yield self._call_arguments(block, "{}")

    def _stop(self) -> Iterable[bytes]:
        usage = self.usage
        if usage and not self._strip_usage:
            yield data_event({**self._envelope, "choices": [], "usage": chat_usage(usage)})
        yield b"data: [DONE]\n\n"

    def _call_arguments(self, block: object, text: str) -> bytes:
        call = {"index": self._calls[block], "function": {"arguments": text}}
        return self._chunk({"tool_calls": [call]})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data_event({**self._envelope, "choices": [choice]})


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and value >= 0 else 0
