"""The output items of a response, put together from an answer's pieces, and the events on the way.

At most one item is open: thoughts, then a message, then calls, as the model makes them.
"""

from __future__ import annotations

import secrets
from typing import Any

from slipway.engine.client import Delta

Events = list[tuple[str, dict[str, Any]]]
"""Names of events with their fields, in order."""


class Assembly:
    """Takes the pieces of one answer.

    Attributes:
        items: the output items so far; the last may still be open.
        thoughts: pieces of reasoning; the engine makes one for each token.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.thoughts = 0
        self._open: str | None = None
        self._calls: dict[int, int] = {}  # number of a call -> place of its item

    def add(self, delta: Delta) -> Events:
        """Take a piece; give the events that tell it."""
        events: Events = []
        if delta.thinking:
            self.thoughts += 1
            events += self._begin("reasoning")
            events += self._text("response.reasoning_text.delta", delta.thinking, {})
        if delta.text or delta.logprobs:
            events += self._begin("message")
            self._part["logprobs"] += delta.logprobs
            logprobs = {"logprobs": delta.logprobs}
            events += self._text("response.output_text.delta", delta.text, logprobs)
        for call in delta.tool_calls:
            events += self._call(call)
        return events

    def end(self, *, cut: bool) -> Events:
        """The answer is over; give the last events.

        Args:
            cut: it ended at its longest, not by itself.
        """
        events = self._begin("message") if not self.items else []
        return events + self._close("incomplete" if cut else "completed")

    @property
    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self.items[-1]["content"][0]
        return part

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def _begin(self, kind: str) -> Events:
        """Open an item, unless the open one is of this kind."""
        if self._open == kind:
            return []
        events = self._close("completed")
        self._open = kind
        item: dict[str, Any] = {"id": _new("msg"), "type": "message", "role": "assistant"}
        part: dict[str, Any] = {
            "type": "output_text",
            "text": "",
            "annotations": [],
            "logprobs": [],
        }
        if kind == "reasoning":
            item = {"id": _new("rs"), "type": "reasoning", "summary": []}
            part = {"type": "reasoning_text", "text": ""}
        item |= {"status": "in_progress", "content": []}
        events.append(self._added(item))
        item["content"].append(part)
        at = {**self._place(), "content_index": 0}
        return [*events, ("response.content_part.added", {**at, "part": dict(part)})]

    def _added(self, item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self.items.append(item)
        snapshot = {**item, **({"content": []} if "content" in item else {})}
        fields = {"output_index": len(self.items) - 1, "item": snapshot}
        return ("response.output_item.added", fields)

    def _text(self, kind: str, text: str, more: dict[str, Any]) -> Events:
        self._part["text"] += text
        return [(kind, {**self._place(), "content_index": 0, "delta": text, **more})]

    def _call(self, call: dict[str, Any]) -> Events:
        number, function = call.get("index", 0), call.get("function") or {}
        events: Events = []
        if number not in self._calls:
            events += self._close("completed")
            self._open = "call"
            self._calls[number] = len(self.items)
            item = {
                "id": _new("fc"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": str(call.get("id") or _new("call")),
                "name": "",
                "arguments": "",
            }
            item["name"] = function.get("name") or ""
            events.append(self._added(item))
        item = self.items[self._calls[number]]
        if piece := function.get("arguments"):
            item["arguments"] += piece
            at = {"item_id": item["id"], "output_index": self._calls[number]}
            events.append(("response.function_call_arguments.delta", {**at, "delta": piece}))
        return events

    def _close(self, status: str) -> Events:
        if self._open is None:
            return []
        item, at = self.items[-1], self._place()
        kind, self._open = self._open, None
        item["status"] = status
        events: Events = []
        if kind == "call":
            told = {**at, "name": item["name"], "arguments": item["arguments"]}
            events.append(("response.function_call_arguments.done", told))
        else:
            part, at = item["content"][0], {**at, "content_index": 0}
            text = {**at, "text": part["text"]}
            if kind == "message":
                text["logprobs"] = part["logprobs"]
            name = "output_text" if kind == "message" else "reasoning_text"
            events.append((f"response.{name}.done", text))
            events.append(("response.content_part.done", {**at, "part": part}))
        done = {"output_index": len(self.items) - 1, "item": item}
        return [*events, ("response.output_item.done", done)]


def _new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
