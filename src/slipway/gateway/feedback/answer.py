"""The assistant's turn in the bytes of an answer, whole or streamed. Only the first choice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

_EVENT_END = re.compile(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)")


@dataclass(slots=True)
class Answer:
    """What the model said.

    Attributes:
        calls: tool calls in OpenAI's form.
        finish: the reason why it ended; None when it was not told.
    """

    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None

    def turn(self) -> dict[str, Any]:
        """The turn as a dataset's row has it."""
        turn: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            turn["tool_calls"] = self.calls
        return turn


def read_answer(data: bytes) -> Answer | None:
    """Read an answer of `chat/completions` or `completions`; None when there is none in it."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _read_stream(data)
    choice = _first_choice(value)
    if choice is None:
        return None
    answer = Answer()
    _add(answer, choice, choice.get("message"))
    return answer


def _read_stream(data: bytes) -> Answer | None:
    answer, found = Answer(), False
    for event in _EVENT_END.split(data):
        lines = (line for line in event.splitlines() if line.startswith(b"data:"))
        try:
            value = orjson.loads(b"\n".join(line[5:].removeprefix(b" ") for line in lines))
        except orjson.JSONDecodeError:  # comments, `[DONE]`
            continue
        choice = _first_choice(value)
        if choice is not None:
            found = True
            _add(answer, choice, choice.get("delta"))
    return answer if found else None


def _first_choice(value: Any) -> dict[str, Any] | None:
    choices = value.get("choices") if isinstance(value, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return None


def _add(answer: Answer, choice: dict[str, Any], part: Any) -> None:
    content = part.get("content") if isinstance(part, dict) else choice.get("text")
    if isinstance(content, str):
        answer.text += content
    if isinstance(finish := choice.get("finish_reason"), str):
        answer.finish = finish
    calls = part.get("tool_calls") if isinstance(part, dict) else None
    for position, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, dict):
            _add_call(answer.calls, call, position)


def _add_call(calls: list[dict[str, Any]], piece: dict[str, Any], position: int) -> None:
    number = piece.get("index", position)
    if not isinstance(number, int) or not 0 <= number <= len(calls):
        number = len(calls)
    if number == len(calls):
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[number]
    if isinstance(piece.get("id"), str):
        call["id"] = call["id"] or piece["id"]
    given = piece.get("function")
    for key in ("name", "arguments"):
        if isinstance(given, dict) and isinstance(given.get(key), str):
            call["function"][key] += given[key]
