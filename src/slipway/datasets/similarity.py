"""Near-duplicates: how alike two texts are, and which pairs of a set are most alike.

Likeness is the Jaccard index of two sets of shingles: single words and pairs of words, or, where
the text is Chinese, Japanese or Korean, pairs of characters. Up to `EXACT_LIMIT` texts every pair
is compared; beyond, MinHash with locality-sensitive hashing (Broder 1997; datasketch) proposes the
pairs and the index is then computed exactly.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from slipway.core.errors import missing_extra

EXACT_LIMIT = 3000
_LSH_THRESHOLD = 0.5
_PERMUTATIONS = 128
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_CJK_CHAR = re.compile(f"[{_CJK}]")
_UNIT = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")

Method = Literal["exact", "minhash"]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two texts by their positions, and their Jaccard index from 0 to 1."""

    left: int
    right: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pairs at or above a threshold, best first, and the best pair whatever its value.

    Attributes:
        best: None when there is nothing to compare, or when MinHash proposed no pair.
    """

    pairs: list[Likeness]
    best: Likeness | None
    method: Method


def cjk_share(text: str) -> float:
    """The share of letters that are Chinese, Japanese or Korean, from 0 to 1."""
    letters = sum(char.isalnum() for char in text)
    return len(_CJK_CHAR.findall(text)) / letters if letters else 0.0


def normalise(text: str) -> str:
    """The text as compared: compatibility forms folded, lower case, words apart, no punctuation."""
    return " ".join(_UNIT.findall(unicodedata.normalize("NFKC", text).casefold()))


def shingles(text: str) -> frozenset[str]:
    """What a text is compared by; see the module's description.

    Words of other scripts inside Chinese text count as one character each.
    """
    units = normalise(text).split()
    pairs = {f"{first} {second}" for first, second in pairwise(units)}
    if cjk_share(text) >= 0.3 and len(units) > 1:
        return frozenset(pairs)
    return frozenset(pairs | set(units))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared shingles over all shingles; 0 when both are empty."""
    union = len(left | right)
    return len(left & right) / union if union else 0.0


def within(texts: Sequence[str], threshold: float) -> Comparison:
    """Compare the texts of one set with each other."""
    sets = [shingles(text) for text in texts]
    if len(sets) > EXACT_LIMIT:
        return _collect(_proposed(sets, sets, same=True), threshold, "minhash")
    bits = list(_bitsets(sets))
    return _collect(_all_pairs(bits, bits, same=True), threshold, "exact")


def between(left: Sequence[str], right: Sequence[str], threshold: float) -> Comparison:
    """Compare each text of `left` with each of `right`."""
    left_sets = [shingles(text) for text in left]
    right_sets = [shingles(text) for text in right]
    if len(left_sets) * len(right_sets) > EXACT_LIMIT**2:
        return _collect(_proposed(left_sets, right_sets, same=False), threshold, "minhash")
    bits = list(_bitsets([*left_sets, *right_sets]))
    pairs = _all_pairs(bits[: len(left)], bits[len(left) :], same=False)
    return _collect(pairs, threshold, "exact")


def _bitsets(sets: Iterable[frozenset[str]]) -> Iterator[int]:
    """Sets as integers, one bit for each shingle: intersections are then a machine operation."""
    numbers: dict[str, int] = {}
    for members in sets:
        bits = 0
        for member in members:
            bits |= 1 << numbers.setdefault(member, len(numbers))
        yield bits


def _all_pairs(left: Sequence[int], right: Sequence[int], *, same: bool) -> Iterator[Likeness]:
    sizes = [bits.bit_count() for bits in right]
    for i, first in enumerate(left):
        size = first.bit_count()
        for j in range(i + 1 if same else 0, len(right)):
            shared = (first & right[j]).bit_count()
            if shared:
                yield Likeness(i, j, shared / (size + sizes[j] - shared))


def _proposed(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], *, same: bool
) -> Iterator[Likeness]:
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise missing_extra("datasketch", "train") from error

    def sketch(members: frozenset[str]) -> MinHash:
        minhash = MinHash(num_perm=_PERMUTATIONS, seed=1)
        minhash.update_batch([member.encode() for member in sorted(members)])
        return minhash

    index = MinHashLSH(threshold=_LSH_THRESHOLD, num_perm=_PERMUTATIONS)
    for j, members in enumerate(right):
        if members:
            index.insert(j, sketch(members))
    for i, members in enumerate(left):
        for j in index.query(sketch(members)) if members else ():
            if not same or i < j:
                yield Likeness(i, j, jaccard(members, right[j]))


def _collect(pairs: Iterable[Likeness], threshold: float, method: Method) -> Comparison:
    best: Likeness | None = None
    kept = []
    for pair in pairs:
        if best is None or pair.similarity > best.similarity:
            best = pair
        if pair.similarity >= threshold:
            kept.append(pair)
    kept.sort(key=lambda pair: (-pair.similarity, pair.left, pair.right))
    return Comparison(kept, best, method)
