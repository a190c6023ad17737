"""The content filter at the relay: requests before they are let in, answers whole and streamed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson

from slipway.gateway.exchange import Call
from slipway.gateway.filter import (
    CODE,
    FINISH_REASON,
    STATUS,
    AnswerStream,
    ContentFilter,
    Rule,
    Verdict,
    load_words,
)
from slipway.gateway.metrics import Metrics
from slipway.gateway.problems import ApiError
from slipway.gateway.sse import events_of

log = logging.getLogger("slipway.gateway")

_TEXTS = ("content", "reasoning_content", "reasoning", "text")
_DONE = b"data: [DONE]\n\n"


def filter_of(block: Path | None, audit: Path | None) -> ContentFilter | None:
    """A filter of two word lists; None when neither is given.

    Raises:
        InputError: a list has a word that cannot be used; file and line are named.
    """
    rules = []
    if block is not None:
        rules.append(Rule("block", load_words(block), mode="block"))
    if audit is not None:
        rules.append(Rule("audit", load_words(audit), mode="audit"))
    return ContentFilter(rules) if rules else None


class Screen:
    """What one gateway process does with texts; without a filter it does nothing."""

    def __init__(self, filters: ContentFilter | None, metrics: Metrics) -> None:
        self._filters = filters
        self._metrics = metrics

    def check(self, call: Call) -> None:
        """Look at a request.

        Raises:
            ApiError: 400, the filter refuses it.
        """
        if self._filters is None:
            return
        verdict = self._filters.check_request(call.body)
        self.note(call.request_id, "request", verdict)
        if verdict.blocked is not None:
            raise ApiError(STATUS, CODE, verdict.message, param=verdict.blocked.field)

    def whole(self, request_id: str, body: bytes) -> bytes | None:
        """What of a whole answer goes to the client when the filter refuses it; else None."""
        if self._filters is None or not self._filters.looks_at_answers:
            return None
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict):
            return None
        verdict = self._filters.check_answer(value)
        self.note(request_id, "answer", verdict)
        if verdict.blocked is None:
            return None
        for choice in value.get("choices") or []:
            choice["finish_reason"] = FINISH_REASON
            choice["logprobs"] = None
            if "message" in choice:
                choice["message"] = {"role": "assistant", "content": ""}
            else:
                choice["text"] = ""
        return orjson.dumps(value)

    def stream(self) -> StreamScreen | None:
        """For one streamed answer; None when nothing looks at answers."""
        if self._filters is None or not self._filters.looks_at_answers:
            return None
        return StreamScreen(self._filters.stream())

    def note(self, request_id: str, where: str, verdict: Verdict) -> None:
        """Log and count what was found; never the words themselves."""
        for line in verdict.log():
            log.warning("%s filter %s: %s", request_id, where, orjson.dumps(line).decode())
        for hit in verdict.hits:
            self._metrics.filtered.labels(hit.rule, hit.mode, where).inc()


class StreamScreen:
    """A streamed answer on its way through the filter; whole events go in and come out.

    Events in which nothing changes pass byte for byte. A text that may yet become a match is held
    back and comes with a later event. When a choice is refused the stream ends for all choices.

    Attributes:
        blocked: the answer was ended; nothing more of the upstream is needed.
    """

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream
        self.blocked = False
        self._open: dict[int, dict[str, Any]] = {}  # choices that did not say that they end
        self._last: dict[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """What was found so far."""
        return self._stream.verdict

    def feed(self, data: bytes) -> bytes:
        """Take whole events; give those for the client."""
        out = bytearray()
        for event, value in events_of(data):
            if self.blocked:
                break
            out += self._unread(event) if value is None else self._event(event, value)
        return bytes(out)

    def _unread(self, event: bytes) -> bytes:
        """An event without an object; before the last one comes what is held back."""
        out = b""
        if b"[DONE]" in event and self._last is not None:
            ended = [{**choice, "finish_reason": "stop"} for choice in self._open.values()]
            out = self._event(b"", {**self._last, "choices": ended}) if ended else b""
        return out if self.blocked else out + event

    def _event(self, event: bytes, value: dict[str, Any]) -> bytes:
        changed = held = False
        self._last = value
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict):
                continue
            before, after = self._choice(choice)
            changed = changed or before != after
            held = held or (bool(before) and not after)
            if self.blocked:
                end = {"index": choice.get("index", 0), "finish_reason": FINISH_REASON}
                body: dict[str, Any] = {"text": ""} if "text" in choice else {"delta": {}}
                return _line({**value, "choices": [{**end, **body}]}) + _DONE
        if not changed:
            return event
        return b"" if held and _says_nothing(value) else _line(value)

    def _choice(self, choice: dict[str, Any]) -> tuple[str, str]:
        """Put the texts of a choice through; give all of them before and after."""
        delta = choice.get("delta")
        holder = delta if isinstance(delta, dict) else choice
        index, before, after = choice.get("index", 0), "", ""
        ends = choice.get("finish_reason") is not None
        if ends:
            self._open.pop(index, None)
        elif isinstance(index, int):
            empty: dict[str, Any] = {"text": ""} if holder is choice else {"delta": {"content": ""}}
            self._open.setdefault(index, {"index": index, **empty})
        for name in _TEXTS:
            text = holder.get(name)
            text = text if isinstance(text, str) else ""
            place = index if name in ("content", "text") else f"{index}.{name}"
            if not text and not (ends and name == ("text" if holder is choice else "content")):
                continue
            passed = self._stream.feed(place, text) if text else ""
            if ends:
                passed += self._stream.finish(place)
            self.blocked = self.blocked or self._stream.is_blocked(place)
            if text != passed:
                holder[name] = passed
            before, after = before + text, after + passed
        return before, after


def _says_nothing(value: dict[str, Any]) -> bool:
    """Whether an event whose texts are held back has nothing else that the client needs."""
    if value.get("usage"):
        return False
    for choice in value["choices"]:
        delta = choice.get("delta") or {}
        others = [name for name in delta if name not in _TEXTS and delta[name]]
        texts = [name for name in _TEXTS if delta.get(name) or choice.get(name)]
        if others or texts or choice.get("finish_reason"):
            return False
    return True


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
