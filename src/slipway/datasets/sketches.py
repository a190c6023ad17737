"""The sketches of a dataset's texts, on disk, and the pairs among them that are alike.

In memory a text takes its bands (80 bytes) and its place in the file (8 bytes).
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from slipway.core.errors import from_os_error
from slipway.datasets.growing import Growing
from slipway.datasets.minhash import BANDS, MinHasher, across, candidates
from slipway.datasets.shingles import SKETCH, Shingler, sketch_jaccard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]
    U32 = NDArray[np.uint32]
    U64 = NDArray[np.uint64]

EXACT_LIMIT = 3000
"""Up to so many texts every pair is compared."""
_AT_ONCE = 4096
_MAPPED_BYTES = 1 << 28
_ENOUGH = 8
"""A text that has so many like it needs no more of them to be told."""

Method = Literal["exact", "minhash"]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two texts by their numbers, and their Jaccard index from 0 to 1."""

    left: int
    right: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pairs at or above a threshold, most alike first, and the best pair whatever its value.

    Attributes:
        left, right, values: of each pair the two texts, left < right within one set, and the index.
        best: None when there is nothing to compare, or when MinHash proposed no pair.
    """

    left: I64
    right: I64
    values: NDArray[np.float64]
    best: Likeness | None
    method: Method

    def __len__(self) -> int:
        return len(self.left)

    def pairs(self, limit: int | None = None) -> list[Likeness]:
        """The first pairs."""
        return [
            Likeness(int(a), int(b), float(v))
            for a, b, v in zip(
                self.left[:limit], self.right[:limit], self.values[:limit], strict=True
            )
        ]


class _Found:
    """Collects a comparison."""

    def __init__(self, np: Any, threshold: float) -> None:
        self._np = np
        self.threshold = threshold
        self._parts: list[tuple[I64, I64, NDArray[np.float64]]] = []
        self.best: Likeness | None = None

    def add(self, left: I64, right: I64, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Take pairs with their index; which of them are alike."""
        alike: NDArray[np.bool_] = values >= self.threshold
        if len(values):
            at = int(values.argmax())
            if values[at] > (self.best.similarity if self.best else 0):
                self.best = Likeness(int(left[at]), int(right[at]), float(values[at]))
        if alike.any():
            self._parts.append((left[alike], right[alike], values[alike]))
        return alike

    def comparison(self, method: Method) -> Comparison:
        """All of it, in order."""
        np = self._np
        none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        left, right, values = (
            np.concatenate(part) for part in zip(none, *self._parts, strict=True)
        )
        order = np.lexsort((right, left, -values))
        return Comparison(left[order], right[order], values[order], self.best, method)


@dataclass(frozen=True, slots=True)
class Sketched:
    """Texts as they are added to an index: their sets, where each begins, and their bands."""

    shingles: U32
    edges: I64
    bands: U32


class Sketcher:
    """Units of texts into `Sketched`."""

    def __init__(self) -> None:
        self._shingler = Shingler()
        self._hasher = MinHasher()
        self.np = self._shingler.np

    def __call__(self, texts: Sequence[Sequence[str]]) -> Sketched:
        np = self.np
        shingles, edges = self._shingler.sets(texts)
        bands = self._hasher.bands(shingles, edges)
        sizes = np.diff(edges)
        if len(sizes) and int(sizes.max()) > SKETCH:
            place = np.arange(len(shingles)) - np.repeat(edges[:-1], sizes)
            shingles = shingles[place < SKETCH]
            edges = np.concatenate(([0], np.cumsum(np.minimum(sizes, SKETCH))))
        return Sketched(shingles, edges, bands)


class Sketches:
    """Texts numbered from 0 in the order in which they were added. Close it when done."""

    def __init__(self, np: Any) -> None:
        self.np = np
        self._ends = Growing(np, np.int64)
        self._bands = Growing(np, np.uint32, BANDS)
        self._written = 0
        self._map: U32 | None = None
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="slipway-")  # noqa: SIM115 - see close

    def __len__(self) -> int:
        return len(self._ends)

    def __enter__(self) -> Sketches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file."""
        self._map = None
        self._file.close()

    def add(self, new: Sketched) -> None:
        """Add texts.

        Raises:
            ResourceError: the disk of temporary files is full.
        """
        self._map = None
        self._ends.extend(new.edges[1:] + self._written)
        self._bands.extend(new.bands)
        try:
            self._file.write(new.shingles.tobytes())
        except OSError as error:
            raise from_os_error(error, tempfile.gettempdir()) from error
        self._written += len(new.shingles)

    def sketch(self, number: int) -> U32:
        """The sketch of a text."""
        ends = self._ends.array
        start = int(ends[number - 1]) if number else 0
        return self._mapped()[start : int(ends[number])]

    def _mapped(self) -> U32:
        """All sketches, one behind the other, in pages that the system reads when they are used."""
        if self._map is None:
            self._file.flush()
            self._map = (
                self.np.memmap(self._file, self.np.uint32, "r", shape=(self._written,))
                if self._written
                else self.np.empty(0, self.np.uint32)
            )
        return self._map

    def _let_go(self) -> None:
        """Give the pages back, which count as this process's memory though they are the file's."""
        mapped = getattr(self._map, "_mmap", None)
        if (
            mapped is not None
            and self._written * 4 > _MAPPED_BYTES
            and hasattr(mmap, "MADV_DONTNEED")
        ):
            mapped.madvise(mmap.MADV_DONTNEED)

    def jaccard(self, left: int, right: int) -> float:
        """How alike two texts are."""
        return sketch_jaccard(self.np, self.sketch(left), self.sketch(right))

    def within(self, numbers: I64, threshold: float) -> Comparison:
        """Pairs among some of the texts, given by ascending numbers."""
        if len(numbers) <= EXACT_LIMIT:
            return self._exactly(numbers, numbers, threshold, same=True)
        found = candidates(self._bands.array[numbers], self.np)
        return self._compare(((numbers[a], numbers[b]) for a, b in found), threshold)

    def between(self, left: I64, right: I64, threshold: float) -> Comparison:
        """Pairs of a text of `left` and a text of `right`."""
        if len(left) * len(right) <= EXACT_LIMIT**2:
            return self._exactly(left, right, threshold, same=False)
        bands = self._bands.array
        found = across(bands[left], bands[right], self.np)
        return self._compare(((left[a], right[b]) for a, b in found), threshold)

    def _compare(self, proposed: Iterable[tuple[I64, I64]], threshold: float) -> Comparison:
        """Compare what was proposed; a pair whose two texts have `_ENOUGH` others is passed over.

        So a thousand copies of a text give some thousand pairs, not half a million.
        """
        np = self.np
        found = _Found(np, threshold)
        known = np.empty(0, np.uint64)
        others = np.zeros(len(self), np.uint8)
        for left, right in proposed:
            open_ones = np.minimum(others[left], others[right]) < _ENOUGH
            keys = left[open_ones].astype(np.uint64) << np.uint64(32)
            keys = np.unique(keys | right[open_ones].astype(np.uint64))
            if len(known) and len(keys):
                at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                keys = keys[known[at] != keys]
            alike = [known]
            for start in range(0, len(keys), _AT_ONCE):
                block = keys[start : start + _AT_ONCE]
                kept = self._compare_block(block, found)
                alike.append(kept)
                ends = np.concatenate((kept >> np.uint64(32), kept & np.uint64(0xFFFFFFFF)))
                texts, counts = np.unique(ends.astype(np.int64), return_counts=True)
                others[texts] = np.minimum(255, others[texts] + counts)
            known = np.sort(np.concatenate(alike))
            self._let_go()
        return found.comparison("minhash")

    def _compare_block(self, pairs: U64, found: _Found) -> U64:
        """Compare some pairs (left << 32 | right); those that are alike."""
        np = self.np
        left = (pairs >> np.uint64(32)).astype(np.int64)
        right = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
        # sets of very different size cannot be alike; as the best pair they may still count
        a, b = self._sizes(left), self._sizes(right)
        most = np.minimum(a, b) / np.maximum(1, np.maximum(a, b))
        best = found.best.similarity if found.best else 0.0
        worth = np.flatnonzero(most > min(best, found.threshold - 1e-9))
        values = self._jaccards(left[worth], right[worth])
        kept: U64 = pairs[worth[found.add(left[worth], right[worth], values)]]
        return kept

    def _sizes(self, numbers: I64) -> I64:
        ends = self._ends.array
        sizes: I64 = ends[numbers] - self.np.where(numbers > 0, ends[numbers - 1], 0)
        return sizes

    def _jaccards(self, left: I64, right: I64) -> NDArray[np.float64]:
        """The index of many pairs at once: equal neighbours in the sorted union of each pair."""
        np = self.np
        texts = np.stack((left, right), axis=1).ravel()
        sizes = self._sizes(texts)
        starts = self._ends.array[texts] - sizes
        behind = np.cumsum(sizes)
        at = np.arange(int(behind[-1]) if len(behind) else 0)
        at += np.repeat(starts - behind + sizes, sizes)
        owner = np.repeat(np.arange(len(texts), dtype=np.uint64) >> np.uint64(1), sizes)
        keys = np.sort(owner << np.uint64(32) | self._mapped()[at])
        same = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        shared = np.bincount(same.astype(np.int64), minlength=len(left))
        both = sizes.reshape(-1, 2)
        values: NDArray[Any] = shared / np.maximum(1, both.sum(axis=1) - shared)
        for n in np.flatnonzero(both.max(axis=1, initial=0) >= SKETCH):  # parts of sets
            values[n] = sketch_jaccard(np, self.sketch(int(left[n])), self.sketch(int(right[n])))
        return values

    def _exactly(self, left: I64, right: I64, threshold: float, *, same: bool) -> Comparison:
        """Every pair, by lists of the texts that have a shingle."""
        np = self.np
        sets = [self.sketch(int(n)) for n in right]
        sizes = np.fromiter(map(len, sets), np.int64, len(sets))
        flat = np.concatenate([*sets, np.empty(0, np.uint32)])
        order = np.argsort(flat, kind="stable")
        ordered, owners = flat[order], np.repeat(np.arange(len(sets)), sizes)[order]
        found = _Found(np, threshold)
        for i, number in enumerate(left):
            mine = sets[i] if same else self.sketch(int(number))
            starts = np.searchsorted(ordered, mine, "left")
            ends = np.searchsorted(ordered, mine, "right")
            sharing = [owners[a:b] for a, b in zip(starts, ends, strict=True) if b > a]
            if not sharing:
                continue
            shared = np.bincount(np.concatenate(sharing), minlength=len(sets))
            if same:
                shared[: i + 1] = 0
            at = np.flatnonzero(shared)
            values = shared[at] / (len(mine) + sizes[at] - shared[at])
            for n in np.flatnonzero(np.maximum(sizes[at], len(mine)) >= SKETCH):  # parts of sets
                values[n] = sketch_jaccard(np, mine, sets[at[n]])
            found.add(np.full(len(at), number), right[at], values)
        return found.comparison("exact")
