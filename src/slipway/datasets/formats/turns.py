"""Turns: `{role, content}` objects under whatever names a layout gives them."""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.calls import read_call_text, read_calls
from slipway.datasets.formats.fields import At, Fields, kind_of
from slipway.datasets.formats.layout import Tags
from slipway.datasets.model import Message


def read_turns(fields: Fields, key: str) -> list[At]:
    """The turns of a list column, in order; results of calls in the order of the calls."""
    turns: list[At] = []
    results: list[tuple[int, At]] = []  # (number of the call, turn) since the last call
    asked: tuple[str, ...] = ()
    tags = fields.layout.tags
    for index, turn in enumerate(fields.items(fields.row, key, key)):
        if not results and (message := _plain(turn, tags)):
            turns.append((f"{key}[{index}].{tags.content}", message))
            asked = ()
            continue
        at = f"{key}[{index}]"
        if not isinstance(turn, dict):
            fields.add(at, "wrong_type", kind_of(turn, "object"))
            continue
        read = read_turn(fields, turn, at)
        if read is None:
            continue
        if read[1].role == "tool":
            results.append((_answers(fields, turn, at, asked, len(results)), read))
            continue
        turns += _in_order(results)
        results = []
        asked = read_calls(Fields({}, fields.layout), turn, at)[1] if read[1].tool_calls else ()
        turns.append(read)
    return turns + _in_order(results)


def _plain(turn: Any, tags: Tags) -> Message | None:
    """A turn of a role and a text and nothing else, as nearly all are; None: look closer."""
    if type(turn) is not dict or len(turn) != 2:
        return None
    name, content = turn.get(tags.role), turn.get(tags.content)
    if type(name) is not str or type(content) is not str:
        return None
    role = tags.roles.get(name)
    return None if role is None or role == "call" or role == "tool" else Message(role, content)


def _in_order(results: list[tuple[int, At]]) -> list[At]:
    # the model's templates do not show ids, so the order alone tells which result is whose
    return [read for _, read in sorted(results, key=lambda result: result[0])]


def _answers(
    fields: Fields, turn: dict[str, Any], at: str, asked: tuple[str, ...], number: int
) -> int:
    """Which of the calls before it a result answers."""
    name = turn.get("tool_call_id")
    if not isinstance(name, str) or not name or not any(asked):
        return number
    if name in asked:
        return asked.index(name)
    reason = tr("no call before it has the id `{id}`", id=name)
    fields.add(f"{at}.tool_call_id", "unknown_call", reason)
    return number


def read_turn(fields: Fields, turn: dict[str, Any], at: str) -> At | None:
    """One turn; None, remembered, when something is wrong with it."""
    tags = fields.layout.tags
    at_role, at_content = f"{at}.{tags.role}", f"{at}.{tags.content}"
    before = len(fields.problems)
    name = fields.text(turn, tags.role, at_role, required=True)
    calls, _ = read_calls(fields, turn, at)
    content = _content(fields, turn, at_content, required=not calls)
    if turn.get("weight") == 0 and not isinstance(turn.get("weight"), bool):
        reason = tr("a turn that is not to be learned (`weight: 0`) is not supported")
        fields.add(f"{at}.weight", "unsupported", reason)
    role = tags.roles.get(name)
    if role is None:
        if isinstance(turn.get(tags.role), str):
            known = ", ".join(tags.roles)
            reason = tr("unknown role `{role}`; known: {known}", role=name, known=known)
            fields.add(at_role, "unknown_role", reason)
        return None
    if role == "call" and len(fields.problems) == before:
        content, calls = read_call_text(fields, content, at_content)
    if len(fields.problems) > before:
        return None
    if calls and role not in ("call", "assistant"):
        fields.add(at, "role_order", tr("only the assistant calls functions"))
        return None
    return at_content, Message("assistant" if role == "call" else role, content, calls)


def _content(fields: Fields, turn: dict[str, Any], at: str, *, required: bool) -> str:
    """The text of a turn; parts are joined, and a separate thought stands before it."""
    value = turn.get(fields.layout.tags.content)
    if isinstance(value, list):
        value = _parts(fields, value, at)
    elif value is None or not isinstance(value, str):
        value = fields.text(turn, fields.layout.tags.content, at, required=required)
    thought = turn.get("reasoning_content")
    if isinstance(thought, str) and thought.strip() and "<think>" not in value:
        return f"<think>\n{thought.strip()}\n</think>\n\n{value}"
    return value


def _parts(fields: Fields, parts: list[Any], at: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        else:
            reason = tr("pictures, videos and sounds are not supported")
            fields.add(f"{at}[{index}]", "unsupported", reason)
    return "".join(texts)
