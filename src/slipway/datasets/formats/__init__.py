"""Foreign row shapes; each module has `parse(row) -> Parsed` and raises `FieldProblem`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from slipway.datasets.formats import alpaca, openai, sharegpt
from slipway.datasets.formats.fields import FieldProblems, Parsed
from slipway.datasets.model import Format

__all__ = ["KEYS", "PARSERS", "FieldProblems", "Parsed", "detect"]

PARSERS: dict[Format, Callable[[dict[str, Any]], Parsed]] = {
    "openai": openai.parse,
    "sharegpt": sharegpt.parse,
    "alpaca": alpaca.parse,
}
KEYS: dict[Format, frozenset[str]] = {
    "openai": openai.KEYS,
    "sharegpt": sharegpt.KEYS,
    "alpaca": alpaca.KEYS,
}
_TELLING: dict[str, Format] = {
    "messages": "openai",
    "conversations": "sharegpt",
    "instruction": "alpaca",
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
