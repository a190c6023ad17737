"""Foreign row shapes; each module has `parse(row, layout) -> Parsed`, raising `FieldProblems`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from slipway.datasets.formats import alpaca, chat, text, trl
from slipway.datasets.formats.fields import FieldProblems, Parsed
from slipway.datasets.formats.layout import LAYOUTS, Layout, Tags
from slipway.datasets.model import Format

__all__ = [
    "KEYS",
    "LAYOUTS",
    "PARSERS",
    "FieldProblems",
    "Layout",
    "Parsed",
    "Tags",
    "detect",
]

PARSERS: dict[Format, Callable[[dict[str, Any], Layout], Parsed]] = {
    "openai": chat.parse,
    "sharegpt": chat.parse,
    "alpaca": alpaca.parse,
    "trl": trl.parse,
    "text": text.parse,
}
KEYS: dict[Format, frozenset[str]] = {format: LAYOUTS[format].keys() for format in LAYOUTS}
_TELLING: dict[str, Format] = {
    "messages": "openai",
    "conversations": "sharegpt",
    "instruction": "alpaca",
    "prompt": "trl",
    "chosen": "trl",
    "text": "text",
}


def detect(rows: Iterable[dict[str, Any]]) -> Format | None:
    """The format of a file by the key that most rows have; None when no row has one."""
    votes = dict.fromkeys(PARSERS, 0)
    for row in rows:
        for key, format in _TELLING.items():
            if key in row:
                votes[format] += 1
                break
    best = max(votes, key=lambda format: votes[format])
    return best if votes[best] else None
