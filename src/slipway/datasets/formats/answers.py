"""What a row teaches beside a conversation: a better and a worse answer, or a mark."""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.fields import At, Fields, kind_of
from slipway.datasets.formats.turns import read_turn
from slipway.datasets.model import Message


def is_pair(fields: Fields) -> bool:
    """Whether the row is a pair of answers: as the registry says, else by its keys."""
    layout = fields.layout
    if layout.ranking is not None:
        return layout.ranking
    return fields.has(layout.chosen) or fields.has(layout.rejected)


def read_pair(fields: Fields) -> None:
    """Read both answers; each is a text, one turn, or a list of one turn."""
    layout, parsed = fields.layout, fields.parsed
    parsed.chosen = _answer(fields, layout.chosen or "chosen")
    parsed.rejected = _answer(fields, layout.rejected or "rejected")


def _answer(fields: Fields, key: str) -> At | None:
    value: Any = fields.row.get(key)
    if value is None:
        fields.add(key, "missing_field", tr("the field is missing"))
        return None
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and fields.layout.messages:
        value = fields.json(value, key)
        if value is None:
            return None
    if isinstance(value, str):
        return key, Message("assistant", value)
    at = key
    if isinstance(value, list):
        if len(value) != 1:
            reason = tr("must be one turn, not {count}", count=len(value))
            fields.add(key, "wrong_type", reason)
            return None
        value, at = value[0], f"{key}[0]"
    if not isinstance(value, dict):
        fields.add(at, "wrong_type", kind_of(value, "str"))
        return None
    return _of_assistant(fields, read_turn(fields, value, at))


def _of_assistant(fields: Fields, read: At | None) -> At | None:
    if read and read[1].role != "assistant":
        reason = tr(
            "expected a turn of `{wanted}`, found `{found}`", wanted="assistant", found=read[1].role
        )
        fields.add(read[0], "role_order", reason)
        return None
    return read
