"""`split` of a registry's dataset: a name, and perhaps a part of its rows.

`train`, `train[:1000]`, `train[10%:20%]`, `train[-100:]`; written as for Hugging Face:
https://huggingface.co/docs/datasets/loading#slice-splits
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOUND = r"-?\d+%?"
_SPLIT = re.compile(rf"([\w.-]+)(?:\[({_BOUND})?:({_BOUND})?\])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a split's rows; a bound is empty, a number, or a percentage (`10%`).

    A negative bound counts from the end; one that lies outside means the end.
    """

    start: str
    stop: str

    def rows(self, count: int) -> range:
        """The numbers of the rows, from 0, in a split of `count` rows."""
        first, last = (_row(bound, count) for bound in (self.start or "0", self.stop or "100%"))
        return range(first, max(first, last))


def _row(bound: str, count: int) -> int:
    percent = bound.endswith("%")
    number = int(bound.rstrip("%"))
    at = round(number * count / 100) if percent else number
    return min(max(at + count if at < 0 else at, 0), count)


def parse_split(text: str) -> tuple[str, Span | None] | None:
    """The name and the part; None when it is not of that form (sums such as `train+test`)."""
    match = _SPLIT.fullmatch(text.strip())
    if match is None:
        return None
    name, start, stop = match.groups()
    return name, None if "[" not in text else Span(start or "", stop or "")
