"""Which rows to hold out: by chance, in whole groups of rows that are alike, from each stratum."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.datasets.alike import CONVERSATION_THRESHOLD, QUESTION_THRESHOLD, same_as
from slipway.datasets.scan import Scan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Division:
    """Which rows are held out.

    Attributes:
        heldout: for each row of the scan whether it is.
        wanted: how many should have been; fewer when groups are too large to fit.
        groups: groups of more than one row, and the rows of the largest.
    """

    heldout: NDArray[np.bool_]
    wanted: int
    groups: int
    largest: int


class _Sets:
    """Rows joined into groups (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def top(self, one: int) -> int:
        parent = self._parent
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    def join(self, one: int, other: int) -> None:
        a, b = self.top(one), self.top(other)
        if a != b:
            self._parent[max(a, b)] = min(a, b)


def plan_split(
    scan: Scan,
    size: float,
    seed: int,
    *,
    strata: Sequence[int] | None = None,
    keys: Sequence[int] | None = None,
) -> Division:
    """Choose the rows to hold out.

    No row is held out while one like it stays: the same conversation, nearly the same one, a first
    question that is nearly any question of the other row, or the same of `keys`. So
    `slipway data check` finds no leak between the two.

    Args:
        size: below 1 a part of the rows, else their number.
        seed: decides which.
        strata: number of the stratum of each row; each gives its share.
        keys: number of the group of each row, from a column; -1: none.

    Raises:
        InputError: nothing would be left, or nothing be held out.
    """
    rows = len(scan)
    wanted = math.ceil(rows * size) if size < 1 else int(size)
    if not 0 < wanted < rows:
        raise InputError(
            "data.split_size",
            tr("{wanted} of {rows} rows cannot be held out", wanted=wanted, rows=rows),
            tr("give --heldout a part such as 0.1, or fewer rows than there are"),
        )
    members = _groups(scan, keys)
    groups = sorted(members.values(), key=lambda group: group[0])
    random.Random(f"split:{seed}").shuffle(groups)
    room = _room(strata, rows, wanted)
    heldout = scan.np.zeros(rows, bool)
    for group in groups:
        stratum = _stratum(group, strata)
        if len(group) <= room[stratum]:
            room[stratum] -= len(group)
            heldout[group] = True
    if not heldout.any():
        raise InputError(
            "data.split_groups",
            tr("all rows are alike, so none can be held out"),
            tr("look at them with `slipway data check`, or remove some with `slipway data dedupe`"),
        )
    sizes = [len(group) for group in groups]
    return Division(heldout, wanted, sum(n > 1 for n in sizes), max(sizes))


def _groups(scan: Scan, keys: Sequence[int] | None) -> dict[int, list[int]]:
    np = scan.np
    sets = _Sets(len(scan))
    first = same_as(scan)
    for number in np.flatnonzero(first != np.arange(len(scan))).tolist():
        sets.join(number, int(first[number]))
    numbers = np.arange(len(scan))
    whole = scan.whole.within(numbers[first == numbers], CONVERSATION_THRESHOLD)
    for left, right in zip(whole.left.tolist(), whole.right.tolist(), strict=True):
        sets.join(left, right)
    asked = scan.asked.within(np.arange(len(scan.asked)), QUESTION_THRESHOLD)
    counts = scan.asked_first[asked.left] | scan.asked_first[asked.right]
    of = scan.asked_of
    for left, right in zip(asked.left[counts].tolist(), asked.right[counts].tolist(), strict=True):
        sets.join(int(of[left]), int(of[right]))
    if keys is not None:
        seen: dict[int, int] = {}
        for number, key in enumerate(keys):
            if key >= 0:
                sets.join(number, seen.setdefault(key, number))
    members: dict[int, list[int]] = {}
    for number in range(len(scan)):
        members.setdefault(sets.top(number), []).append(number)
    return members


def _room(strata: Sequence[int] | None, rows: int, wanted: int) -> dict[int, int]:
    """Rows to hold out of each stratum: its share, rounded so that all together are `wanted`."""
    if strata is None:
        return {0: wanted}
    counts = Counter(strata)
    exact = {stratum: count * wanted / rows for stratum, count in counts.items()}
    room = {stratum: int(share) for stratum, share in exact.items()}
    left = wanted - sum(room.values())
    for stratum in sorted(exact, key=lambda one: (room[one] - exact[one], one))[:left]:
        room[stratum] += 1
    return room


def _stratum(group: Sequence[int], strata: Sequence[int] | None) -> int:
    if strata is None:
        return 0
    return Counter(strata[number] for number in group).most_common(1)[0][0]
