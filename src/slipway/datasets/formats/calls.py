"""Functions: those offered (`tools`) and those called, however a row writes them.

OpenAI: `tool_calls: [{"id", "type", "function": {"name", "arguments": "<JSON>"}}]`, and before 2023
`function_call: {"name", "arguments"}`. ShareGPT: a turn `function_call` whose text is
`{"name", "arguments"}` or a list of such, perhaps after a thought in `<think>`.
"""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.fields import Fields, kind_of
from slipway.datasets.model import ToolCall

_THOUGHT_ENDS = "</think>"


def read_tools(fields: Fields) -> tuple[dict[str, Any], ...]:
    """The functions offered, in OpenAI's shape; a bare schema `{"name", ...}` is wrapped."""
    key = fields.layout.tools
    value = fields.row.get(key) if key else None
    if value is None or value in ("", []):
        return ()
    if isinstance(value, str):
        value = fields.json(value, key)
        if value is None or value == []:
            return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        fields.add(key, "wrong_type", kind_of(value, "list"))
        return ()
    found = []
    for index, tool in enumerate(value):
        at = f"{key}[{index}]"
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
            schema, at = tool["function"], f"{at}.function"
        else:
            schema = tool
        if not isinstance(schema, dict):
            fields.add(at, "wrong_type", kind_of(schema, "object"))
        elif fields.text(schema, "name", f"{at}.name", required=True):
            found.append({"type": "function", "function": schema})
    return tuple(found)


def read_calls(
    fields: Fields, turn: dict[str, Any], at: str
) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    """The calls of an OpenAI turn and their ids; an id is empty where none is given."""
    if turn.get("tool_calls"):
        calls, ids = [], []
        for index, item in enumerate(fields.items(turn, "tool_calls", f"{at}.tool_calls")):
            here = f"{at}.tool_calls[{index}]"
            if not isinstance(item, dict):
                fields.add(here, "wrong_type", kind_of(item, "object"))
                continue
            inner = item.get("function")
            place = f"{here}.function" if isinstance(inner, dict) else here
            if call := _call(fields, inner if isinstance(inner, dict) else item, place):
                calls.append(call)
                ids.append(str(item.get("id") or ""))
        return tuple(calls), tuple(ids)
    if isinstance(old := turn.get("function_call"), dict):
        call = _call(fields, old, f"{at}.function_call")
        return ((call,), ("",)) if call else ((), ())
    return (), ()


def read_call_text(fields: Fields, text: str, at: str) -> tuple[str, tuple[ToolCall, ...]]:
    """A ShareGPT call: the thought before it, and the calls."""
    thought, ends, rest = text.rpartition(_THOUGHT_ENDS)
    value = fields.json(rest, at)
    if value is None:
        return "", ()
    items = value if isinstance(value, list) else [value]
    calls = []
    for index, item in enumerate(items):
        here = f"{at}[{index}]" if isinstance(value, list) else at
        if not isinstance(item, dict):
            fields.add(here, "wrong_type", kind_of(item, "object"))
        elif call := _call(fields, item, here):
            calls.append(call)
    if not items:
        fields.add(at, "empty", tr("there is no call"))
    return thought + ends, tuple(calls)


def _call(fields: Fields, item: dict[str, Any], at: str) -> ToolCall | None:
    name = fields.text(item, "name", f"{at}.name", required=True)
    arguments = item.get("arguments", item.get("parameters"))
    where = f"{at}.arguments"
    if arguments is None or arguments == "":
        arguments = {}
    if isinstance(arguments, str):
        arguments = fields.json(arguments, where)
        if arguments is None:
            return None
    if not isinstance(arguments, dict):
        fields.add(where, "wrong_type", kind_of(arguments, "object"))
        return None
    return ToolCall(name, arguments) if name else None
