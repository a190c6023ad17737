"""Personal data in rows as they stand in a file, replaced by placeholders; the rest stays."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from slipway.datasets.personal import USUAL, Mask, PersonalKind

_NAMES = frozenset({"id", "role", "from", "type", "topic", "tool_call_id", "name"})
"""Keys whose texts name something of the row's own; they are no one's data."""


def mask_row(
    row: dict[str, Any], kinds: Collection[PersonalKind] = USUAL
) -> tuple[dict[str, Any], dict[PersonalKind, int]]:
    """A row without personal data, and how many pieces of which kind it had.

    Texts that hold JSON (the arguments of a call) are masked inside, so that they stay JSON; a
    number that is personal data becomes a placeholder in quotation marks.
    """
    mask = Mask(kinds)
    masked = {key: value if key in _NAMES else _value(value, mask) for key, value in row.items()}
    return masked, dict(mask.counts)


def _value(value: Any, mask: Mask) -> Any:
    if isinstance(value, str):
        return _text(value, mask)
    if isinstance(value, dict):
        return {k: v if _is_name(k, v) else _value(v, mask) for k, v in value.items()}
    if isinstance(value, list):
        return [_value(item, mask) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**9:
        masked = mask.text(str(value))
        return value if masked == str(value) else masked
    return value


def _is_name(key: str, value: Any) -> bool:
    return key in ("role", "from", "type", "tool_call_id") and isinstance(value, str)


def _text(text: str, mask: Mask) -> str:
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return mask.text(text)
        if isinstance(value, dict | list):
            masked = _value(value, mask)
            return text if masked == value else json.dumps(masked, ensure_ascii=False)
    return mask.text(text)
