"""Rows of a scan that are alike: the same, nearly the same, asked the same, or leaked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slipway.datasets.scan import SAME, Scan
from slipway.datasets.sketches import Comparison

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]

QUESTION_THRESHOLD = 0.8
CONVERSATION_THRESHOLD = 0.85

THRESHOLDS: dict[str, float] = {
    "question": QUESTION_THRESHOLD,
    "conversation": CONVERSATION_THRESHOLD,
    "leak": QUESTION_THRESHOLD,
}


@dataclass(frozen=True, slots=True)
class Alike:
    """Pairs of rows of a scan, by their numbers.

    Attributes:
        first: for each row the first row with the same conversation; itself, if it is that.
        questions: pairs by their first questions, within train.
        conversations: pairs by all that is said but the system turns, within train. In both a row
            that is the same as an earlier one is not compared.
        leaks: (held-out row, row of train) by the held-out row's first question and any question
            of the other.
    """

    first: I64
    questions: Comparison
    conversations: Comparison
    leaks: Comparison


def find_alike(scan: Scan, conversation: float = CONVERSATION_THRESHOLD) -> Alike:
    """Compare the rows of a scan.

    Args:
        conversation: index from which conversations are nearly the same.
    """
    np = scan.np
    train = _range(scan, "train")
    heldout = _range(scan, "heldout")
    first = same_as(scan)
    whole = scan.whole.within(train[first[train] == train], conversation)
    of, firsts = scan.asked_of, scan.asked_first
    in_train = np.isin(of, train) if len(heldout) else np.ones(len(of), bool)
    new = (first == np.arange(len(scan)))[of]
    asked = scan.asked.within(np.flatnonzero(firsts & in_train & new), QUESTION_THRESHOLD)
    leaks = scan.asked.between(
        np.flatnonzero(firsts & ~in_train), np.flatnonzero(in_train), QUESTION_THRESHOLD
    )
    return Alike(first, _by_row(scan, asked), whole, _by_row(scan, leaks))


def _range(scan: Scan, split: Literal["train", "heldout"]) -> I64:
    np = scan.np
    found = scan.splits.get(split)
    numbers: I64 = np.arange(found.start, found.end) if found else np.empty(0, np.int64)
    return numbers


def same_as(scan: Scan) -> I64:
    """For each row the first row with the same conversation; itself, if it is that."""
    np = scan.np
    _, at, inverse = np.unique(scan.column(SAME), return_index=True, return_inverse=True)
    first: I64 = at[inverse].astype(np.int64)
    return first


def _by_row(scan: Scan, found: Comparison) -> Comparison:
    of = scan.asked_of
    best = found.best
    if best:
        best = type(best)(int(of[best.left]), int(of[best.right]), best.similarity)
    return Comparison(of[found.left], of[found.right], found.values, best, found.method)
