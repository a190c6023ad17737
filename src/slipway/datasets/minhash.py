"""Which of many texts may be alike, without comparing each with each: MinHash and LSH.

Of each text's shingles the smallest under `HASHES` hash functions are taken; two texts agree in
each with a probability equal to their Jaccard index (Broder 1997). `ROWS` of them make a band;
texts that agree in a whole band are compared (Indyk and Motwani 1998). What is missed: DESIGN.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slipway.datasets.shingles import numpy_module

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    U32 = NDArray[np.uint32]
    I64 = NDArray[np.int64]

BANDS, ROWS = 20, 5
HASHES = BANDS * ROWS
_SMALL = 8
"""Buckets up to this size have all their pairs compared."""
_NEIGHBOURS = 3


class MinHasher:
    """The bands of many texts at once. Hash functions are fixed: the same text, the same bands."""

    def __init__(self) -> None:
        np = self.np = numpy_module()
        draw = np.random.Generator(np.random.PCG64(1997))
        self._flip = draw.integers(0, 2**32, HASHES, dtype=np.uint32)
        self._times = draw.integers(0, 2**31, HASHES, dtype=np.uint32) * np.uint32(2) + np.uint32(1)

    def bands(self, shingles: U32, edges: I64) -> U32:
        """(texts, BANDS) band numbers; texts without shingles have zeros.

        Args:
            shingles: the sets of all texts, one behind the other.
            edges: where each begins, and the end.
        """
        np = self.np
        texts = len(edges) - 1
        bands: U32 = np.zeros((texts, BANDS), np.uint32)
        full = np.flatnonzero(np.diff(edges))
        if not len(full):
            return bands
        starts = edges[:-1][full]
        work = np.empty_like(shingles)
        for band in range(BANDS):
            mixed = np.zeros(len(full), np.uint64)
            for row in range(band * ROWS, (band + 1) * ROWS):
                np.bitwise_xor(shingles, self._flip[row], out=work)
                np.multiply(work, self._times[row], out=work)  # odd: a permutation of 32 bits
                smallest = np.minimum.reduceat(work, starts)
                mixed = (mixed ^ smallest) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
            bands[full, band] = mixed >> np.uint64(32)
        return bands


def candidates(bands: U32, np: Any) -> Iterator[tuple[I64, I64]]:
    """Pairs of texts that share a band, band by band: (left, right) with left < right.

    A bucket of up to 8 texts gives all its pairs. In a larger one each text is paired with the
    first and with 3 before it, in the order of the next band, which brings the most alike
    together; so the work grows with the texts, not with their square.
    Texts without shingles (all bands zero) are left out.
    """
    full = np.flatnonzero(bands.any(axis=1))
    for band in range(bands.shape[1]):
        keys = bands[full, band].astype(np.uint64) << np.uint64(32)
        keys |= bands[full, (band + 1) % bands.shape[1]]
        order = np.argsort(keys, kind="stable")
        heads = (keys[order] >> np.uint64(32)).astype(np.uint32)
        rows = full[order]
        yield from _pairs(np, rows, heads)


def _pairs(np: Any, rows: I64, heads: U32) -> Iterator[tuple[I64, I64]]:
    starts = np.flatnonzero(np.r_[True, heads[1:] != heads[:-1]]) if len(heads) else heads
    sizes = np.diff(np.r_[starts, len(heads)])
    size = np.repeat(sizes, sizes)
    start = np.repeat(starts, sizes)
    place = np.arange(len(heads)) - start
    for step in range(1, _SMALL):
        near = (place >= step) & ((size <= _SMALL) | (step <= _NEIGHBOURS))
        at = np.flatnonzero(near)
        yield _ordered(np, rows[at], rows[at - step])
    far = np.flatnonzero((size > _SMALL) & (place > _NEIGHBOURS))
    yield _ordered(np, rows[far], rows[start[far]])


def _ordered(np: Any, left: I64, right: I64) -> tuple[I64, I64]:
    return np.minimum(left, right), np.maximum(left, right)


def across(left: U32, right: U32, np: Any) -> Iterator[tuple[I64, I64]]:
    """Pairs (row of `left`, row of `right`) that share a band; up to 8 of a bucket for each left.

    Of a larger bucket those are taken that are nearest in the order of the next band.
    """
    mine = np.flatnonzero(left.any(axis=1))
    theirs = np.flatnonzero(right.any(axis=1))
    if not len(mine) or not len(theirs):
        return
    for band in range(left.shape[1]):
        following = (band + 1) % left.shape[1]
        keys = right[theirs, band].astype(np.uint64) << np.uint64(32) | right[theirs, following]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        wanted = left[mine, band].astype(np.uint64) << np.uint64(32) | left[mine, following]
        middle = np.searchsorted(keys, wanted)
        for step in range(-_SMALL // 2, _SMALL // 2 + 1):
            at = middle + step
            inside = (at >= 0) & (at < len(keys))
            inside[inside] = keys[at[inside]] >> np.uint64(32) == wanted[inside] >> np.uint64(32)
            yield mine[inside], theirs[order[at[inside]]]


def found_share(similarity: float) -> float:
    """The probability that two texts of a Jaccard index share at least one band."""
    return float(1 - (1 - similarity**ROWS) ** BANDS)
