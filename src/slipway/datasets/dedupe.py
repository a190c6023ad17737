"""Which rows to leave out so that no two are the same, or nearly; of those alike the best stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slipway.datasets.alike import find_alike
from slipway.datasets.scan import Scan, SplitScan
from slipway.datasets.sketches import Comparison

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Why = Literal["same", "near", "leak"]


@dataclass(frozen=True, slots=True)
class Removed:
    """A row that is left out.

    Attributes:
        keeper: the row that stays in its place, by its number in the scan.
        why: `same` conversation, `near`ly the same, or a question that is held out (`leak`).
    """

    keeper: int
    why: Why
    similarity: float


@dataclass(frozen=True, slots=True)
class Dedupe:
    """What is left out.

    Attributes:
        removed: number of a row in the scan -> why.
    """

    removed: dict[int, Removed]

    @property
    def counts(self) -> Counter[str]:
        """Why -> rows."""
        return Counter(str(one.why) for one in self.removed.values())


def plan_dedupe(scan: Scan, *, near: bool, threshold: float, leaks: bool) -> Dedupe:
    """Decide which rows go.

    Rows are taken from the best score down (the first of equals first; held-out rows before all).
    A row goes when it is the same as one that was kept or its index with it is at least
    `threshold`. So what is kept has no two rows alike that were proposed as a pair, and a chain
    (a like b, b like c) loses only its middle.

    Args:
        near: also leave out rows that are nearly the same.
        threshold: Jaccard index of conversations from which they are nearly the same.
        leaks: also leave out rows of train that a held-out question asks for.
    """
    np = scan.np
    alike = find_alike(scan, conversation=threshold)
    heldout = scan.splits.get("heldout", SplitScan(0, 0))
    rank = scan.scores() + np.where(_within(scan, heldout), 1000, 0)
    order = np.lexsort((np.arange(len(scan)), -rank))
    removed: dict[int, Removed] = {}
    best: dict[int, int] = {}
    for number in order.tolist():
        first = int(alike.first[number])
        keeper = best.setdefault(first, number)
        if keeper != number:
            removed[number] = Removed(keeper, "same", 1.0)
    if leaks:
        for pair in alike.leaks.pairs():
            removed.setdefault(pair.right, Removed(pair.left, "leak", pair.similarity))
    if near:
        _near(scan, alike.conversations, best, order, threshold, removed)
    return Dedupe(removed)


def _within(scan: Scan, split: SplitScan) -> NDArray[np.bool_]:
    numbers = scan.np.arange(len(scan))
    inside: NDArray[np.bool_] = (numbers >= split.start) & (numbers < split.end)
    return inside


def _near(
    scan: Scan,
    pairs: Comparison,
    best: dict[int, int],
    order: NDArray[np.int64],
    threshold: float,
    removed: dict[int, Removed],
) -> None:
    like: dict[int, dict[int, float]] = {}
    for left, right, value in zip(
        pairs.left.tolist(), pairs.right.tolist(), pairs.values.tolist(), strict=True
    ):
        # pairs are of the first rows of each conversation; the best of it stands for them
        a, b = best.get(left, left), best.get(right, right)
        like.setdefault(a, {})[b] = value
        like.setdefault(b, {})[a] = value
    kept: set[int] = set()
    for number in order.tolist():
        if number in removed or number not in like:
            continue
        found = _keeper(scan, number, like, kept, removed, threshold)
        if found is None:
            kept.add(number)
        else:
            removed[number] = Removed(found[0], "near", found[1])


def _keeper(
    scan: Scan,
    number: int,
    like: dict[int, dict[int, float]],
    kept: set[int],
    removed: dict[int, Removed],
    threshold: float,
) -> tuple[int, float] | None:
    """A kept row that a row is like: one it was compared with, or that such a one gave way to."""
    others = like[number]
    for other in sorted(others, key=lambda one: -others[one]):
        if other in kept:
            return other, others[other]
    second = {removed[other].keeper for other in others if other in removed} & kept
    for other in sorted(second):
        similarity = scan.whole.jaccard(number, other)
        if similarity >= threshold:
            return other, similarity
    return None
