"""What texts are compared by: their units, pairs of units, and these pairs as numbers.

A unit is a word, or one character of Chinese, Japanese or Korean. Two texts are as alike as the
sets of their pairs of adjacent units (shingles; Broder 1997): the Jaccard index, 0 to 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]

SKETCH = 1024
"""Most shingles kept of a text: the smallest by hash (bottom-k sketch)."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
CJK_CHAR = re.compile(f"[{_CJK}]")
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_ASCII = bytes(
    n + 32 if 65 <= n <= 90 else n if chr(n).isalnum() and n < 128 else 32 for n in range(256)
)
_MAX_WORDS = 500_000


def units_of(text: str) -> list[str]:
    """The units of a text as compared: compatibility forms folded, lower case, no punctuation."""
    if text.isascii():
        return text.encode().translate(_ASCII).decode().split()  # three times as fast
    return _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())


def normalise(text: str) -> str:
    """The units of a text with spaces between them."""
    return " ".join(units_of(text))


def cjk_share(text: str) -> float:
    """The share of letters that are Chinese, Japanese or Korean, from 0 to 1."""
    if text.isascii():
        return 0.0
    letters = sum(char.isalnum() for char in text)
    return len(CJK_CHAR.findall(text)) / letters if letters else 0.0


def shingles(text: str) -> frozenset[str]:
    """Pairs of adjacent units; of a text with one unit, that unit."""
    units = units_of(text)
    return frozenset([f"{a} {b}" for a, b in pairwise(units)] or units)


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared shingles over all shingles; 0 when both are empty."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


def numpy_module() -> Any:
    """`numpy`, loaded when it is first needed."""
    import numpy

    return numpy


class _Numbers(dict[str, int]):
    """Unit -> 64 bits that are the same in every process (Python's own `hash` is not)."""

    def __missing__(self, unit: str) -> int:
        if len(self) >= _MAX_WORDS:
            self.clear()
        number = int.from_bytes(blake2b(unit.encode(errors="replace"), digest_size=8).digest())
        self[unit] = number
        return number


class Shingler:
    """Units of many texts into sets of 32-bit numbers, all texts of a batch at once.

    Two different shingles get the same number with a chance of 2^-32, so a text of 1,000 shingles
    counts one too few in a case of ten thousand.
    """

    def __init__(self) -> None:
        self.np = numpy_module()
        self._numbers = _Numbers()

    def numbers(self, texts: Sequence[Sequence[str]]) -> tuple[U64, NDArray[np.int64]]:
        """All units as numbers, one text behind the other, and where each begins (and ends)."""
        np = self.np
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        flat = map(self._numbers.__getitem__, chain.from_iterable(texts))
        return np.fromiter(flat, np.uint64, int(starts[-1])), starts

    def sets(self, texts: Sequence[Sequence[str]]) -> tuple[U32, NDArray[np.int64]]:
        """The shingles of each text, sorted and each once; and where they begin (and end)."""
        np = self.np
        units, starts = self.numbers(texts)
        counts = np.diff(starts)
        owner = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)
        last = np.zeros(len(units), bool)
        last[starts[1:][counts > 0] - 1] = True
        alone = np.zeros(len(units), bool)
        alone[starts[:-1][counts == 1]] = True
        following = np.roll(units, -1)
        following[last] = 0
        pairs = _mix(np, units * np.uint64(0x9E3779B97F4A7C15) + following)
        kept = ~last | alone
        keys = np.sort((owner[kept] << np.uint64(32)) | (pairs[kept] >> np.uint64(32)))
        if len(keys):
            keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        edges = np.searchsorted(keys, np.arange(len(texts) + 1, dtype=np.uint64) << np.uint64(32))
        return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32), edges.astype(np.int64)


def _mix(np: Any, values: U64) -> U64:
    """The finaliser of MurmurHash3 (public domain, A. Appleby): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: U64 = values ^ (values >> np.uint64(33))
    return mixed


def sketch_of(shingle_set: U32) -> U32:
    """The smallest `SKETCH` numbers of a sorted set."""
    return shingle_set[:SKETCH]


def sketch_jaccard(np: Any, left: U32, right: U32) -> float:
    """The Jaccard index by two sketches: exact for whole sets, else by the smallest of the union.

    With k = 1024 the standard error of an index J is sqrt(J (1 - J) / k), 0.0125 at 0.8
    (Cohen and Kaplan 2007).
    """
    if not len(left) and not len(right):
        return 0.0
    union = np.union1d(left, right)
    if len(left) >= SKETCH or len(right) >= SKETCH:
        union = union[:SKETCH]
    shared = np.intersect1d(left, right, assume_unique=True)
    shared = shared[shared <= union[-1]]
    return float(len(shared) / len(union))


def same_text(turns: Iterable[tuple[str, Sequence[str]]]) -> int:
    """64 bits of a conversation as compared: roles and units of its turns."""
    digest = blake2b(digest_size=8)
    for role, units in turns:
        digest.update(f"\x00{role}\x01{' '.join(units)}".encode(errors="replace"))
    return int.from_bytes(digest.digest())
