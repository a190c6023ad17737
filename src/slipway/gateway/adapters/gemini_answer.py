"""Gemini's answers and streams as OpenAI's, and their usage.

Source: "Generating content" of the Gemini API reference (ai.google.dev).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from slipway.gateway.adapters.anthropic_answer import chat_usage
from slipway.gateway.adapters.events import Events, data_event, mapping, objects
from slipway.gateway.pricing import Usage, estimate_tokens

_FILTERED = {
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
}


def usage_of(reported: object) -> Usage | None:
    """Gemini's `usageMetadata`, whose thoughts are counted beside the answer."""
    said = mapping(reported)
    if "promptTokenCount" not in said:
        return None
    thought = _number(said, "thoughtsTokenCount")
    return Usage(
        prompt=_number(said, "promptTokenCount") + _number(said, "toolUsePromptTokenCount"),
        completion=_number(said, "candidatesTokenCount") + thought,
        cached=_number(said, "cachedContentTokenCount"),
        reasoning=thought,
    )


def chat_answer(answer: dict[str, Any], usage: Usage | None, created: int) -> dict[str, Any]:
    """A whole answer as a chat completion; `created` is in Unix seconds."""
    choices = []
    for place, candidate in enumerate(_candidates(answer)):
        index = candidate.get("index", place)
        text, thought, calls = _said(candidate, answer, index, 0)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        finish = _finish(candidate, bool(calls)) or "stop"
        choices.append({"index": index, "message": message, "finish_reason": finish})
    found = {
        "id": answer.get("responseId") or "",
        "object": "chat.completion",
        "created": created,
        "model": answer.get("modelVersion") or "",
        "choices": choices,
    }
    return {**found, "usage": chat_usage(usage)} if usage else found


def embeddings_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Embeddings as OpenAI's; Gemini does not say how many tokens they took."""
    data = [
        {"object": "embedding", "index": index, "embedding": each.get("values") or []}
        for index, each in enumerate(objects(answer.get("embeddings")))
    ]
    return {
        "object": "list",
        "data": data,
        "model": "",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def chat_error(value: object) -> dict[str, Any]:
    """An error as OpenAI's answers have it; Gemini's may come in a list."""
    first = value[0] if isinstance(value, list) and value else value
    error = mapping(mapping(first).get("error"))
    message = error.get("message") or "The model's server failed."
    kind = str(error.get("status") or "api_error").lower()
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def _candidates(answer: dict[str, Any]) -> list[dict[str, Any]]:
    found = objects(answer.get("candidates"))
    if not found and mapping(answer.get("promptFeedback")).get("blockReason"):
        return [{"index": 0, "finishReason": "SAFETY"}]
    return found


def _finish(candidate: dict[str, Any], has_calls: bool) -> str | None:
    reason = candidate.get("finishReason")
    if not reason:
        return None
    if reason in _FILTERED:
        return "content_filter"
    if reason == "MAX_TOKENS":
        return "length"
    return "tool_calls" if has_calls else "stop"


def _said(
    candidate: dict[str, Any], answer: dict[str, Any], choice: int, before: int
) -> tuple[str, str, list[dict[str, Any]]]:
    """Text, thought and calls of a candidate; `before` is how many calls it made already."""
    parts = objects(mapping(candidate.get("content")).get("parts"))
    text = "".join(str(p.get("text", "")) for p in parts if not p.get("thought"))
    thought = "".join(str(p.get("text", "")) for p in parts if p.get("thought"))
    calls: list[dict[str, Any]] = []
    for part in parts:
        call = mapping(part.get("functionCall"))
        if not call:
            continue
        number = before + len(calls)
        name = call.get("id") or f"call_{answer.get('responseId', '')}_{choice}_{number}"
        arguments = orjson.dumps(call.get("args") or {}).decode()
        function = {"name": call.get("name"), "arguments": arguments}
        made: dict[str, Any] = {"id": name, "type": "function", "function": function}
        if signature := part.get("thoughtSignature"):
            # where Gemini's own OpenAI face has it; clients give it back with the call
            made["extra_content"] = {"google": {"thought_signature": signature}}
        calls.append(made)
    return text, thought, calls


class ChatFromGemini:
    """Translates a stream of answers into a chat completion's.

    Gemini's stream has no last event, so the ending is given when the connection closes.
    """

    def __init__(self, *, strip_usage: bool, created: int) -> None:
        self._strip_usage = strip_usage
        self._created = created
        self._events = Events()
        self._text: list[str] = []
        self._envelope: dict[str, Any] = {}
        self._calls: dict[int, int] = {}  # choice -> calls so far
        self.usage: Usage | None = None
        self.finished = False
        self.done = False
        self.error = False

    @property
    def text(self) -> str:
        """All that was generated so far."""
        return "".join(self._text)

    @property
    def inside_event(self) -> bool:
        """Never: only whole events are given out."""
        return False

    def generated(self) -> int:
        """About how many tokens were generated so far."""
        return estimate_tokens(self.text)

    def feed(self, chunk: bytes) -> bytes:
        """The chunks that became known with these bytes."""
        return b"".join(self._translated(self._events.feed(chunk)))

    def end(self) -> bytes:
        """The ending, unless the upstream never came to it."""
        out = b"".join(self._translated(self._events.end()))
        if not self.finished or self.error:
            return out
        self.done = True
        if self.usage and not self._strip_usage:
            usage = chat_usage(self.usage)
            out += data_event({**self._envelope, "choices": [], "usage": usage})
        return out + b"data: [DONE]\n\n"

    def _translated(self, events: Iterable[dict[str, Any]]) -> Iterable[bytes]:
        for event in events:
            if "error" in event:
                self.error = True
                yield data_event(chat_error(event))
                continue
            self.usage = usage_of(event.get("usageMetadata")) or self.usage
            self._envelope = self._envelope or {
                "id": event.get("responseId") or "",
                "object": "chat.completion.chunk",
                "created": self._created,
                "model": event.get("modelVersion") or "",
            }
            for place, candidate in enumerate(_candidates(event)):
                yield self._chunk(event, candidate, candidate.get("index", place))

    def _chunk(self, event: dict[str, Any], candidate: dict[str, Any], index: int) -> bytes:
        delta: dict[str, Any] = {}
        if index not in self._calls:
            delta = {"role": "assistant", "content": ""}
        before = self._calls.setdefault(index, 0)
        text, thought, calls = _said(candidate, event, index, before)
        if text:
            delta["content"] = text
        if thought:
            delta["reasoning_content"] = thought
        if calls:
            numbered = enumerate(calls, start=before)
            delta["tool_calls"] = [{"index": number, **call} for number, call in numbered]
        self._calls[index] += len(calls)
        self._text += [text, thought, *(call["function"]["arguments"] for call in calls)]
        finish = _finish(candidate, self._calls[index] > 0)
        self.finished = self.finished or finish is not None
        choice = {"index": index, "delta": delta, "finish_reason": finish}
        return data_event({**self._envelope, "choices": [choice]})


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and value >= 0 else 0
