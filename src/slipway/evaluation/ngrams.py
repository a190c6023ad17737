"""The counts behind BLEU, chrF and ROUGE, one row of numbers for each answer.

Corpus scores are functions of summed counts, so a bootstrap sums the counts of the drawn rows and
applies the formula: exact, and without scoring any text again.

Sources: BLEU, Papineni et al. 2002; ROUGE, Lin 2004; chrF and chrF++, Popović 2015 and 2017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLEU_ORDER = 4
CHRF_CHARACTERS = 6
CHRF_WORDS = 2
_BETA = 2.0


def grams(units: Sequence[Hashable], order: int) -> Counter[Hashable]:
    """How often each run of `order` units occurs."""
    if isinstance(units, str):
        return Counter([units[at : at + order] for at in range(len(units) - order + 1)])
    return Counter(zip(*(units[at:] for at in range(order)), strict=False))


def overlap(units: Sequence[Hashable], reference: Sequence[Hashable], order: int) -> list[int]:
    """[n-grams of the answer, of the reference, of both (each as often as in the rarer)]."""
    ours, theirs = grams(units, order), grams(reference, order)
    both = sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs)
    return [max(0, len(units) - order + 1), max(0, len(reference) - order + 1), both]


def common_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence (bit-parallel, Hyyrö 2004)."""
    places: dict[Hashable, int] = {}
    for at, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << at
    full = (1 << len(a)) - 1
    row = full
    for unit in b:
        hit = row & places.get(unit, 0)
        row = ((row + hit) | (row - hit)) & full
    return len(a) - row.bit_count()


def f1(ours: float, theirs: float, both: float) -> float:
    """F1 from sizes, 0 to 100; two empty texts are equal, one empty text matches nothing."""
    if not ours and not theirs:
        return 100.0
    return 200.0 * both / (ours + theirs)


def rouge_n(units: Sequence[str], reference: Sequence[str], order: int) -> float:
    """ROUGE-N F1, 0 to 100. Texts too short for an n-gram are compared as they are."""
    if len(units) < order and len(reference) < order:
        return 100.0 if list(units) == list(reference) else 0.0
    ours, theirs, both = overlap(units, reference, order)
    return f1(ours, theirs, both)


def rouge_l(units: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L F1, 0 to 100."""
    return f1(len(units), len(reference), common_length(units, reference))


def bleu_counts(units: Sequence[str], reference: Sequence[str]) -> list[int]:
    """[answer's length, reference's length, then for n = 1..4: answer's n-grams, matches]."""
    counts = [len(units), len(reference)]
    for order in range(1, BLEU_ORDER + 1):
        ours, _, both = overlap(units, reference, order)
        counts += [ours, both]
    return counts


def bleu(counts: Array) -> Array:
    """Corpus BLEU-4, 0 to 100, from summed counts [..., 10].

    Orders of which the answers hold no n-gram at all are left out of the mean, so that short
    identical answers score 100; an order without a match makes the score 0 (no smoothing).
    """
    length, reference = counts[..., 0], counts[..., 1]
    logs = np.zeros(counts.shape[:-1])
    orders = np.zeros(counts.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for order in range(BLEU_ORDER):
            ours, both = counts[..., 2 + 2 * order], counts[..., 3 + 2 * order]
            logs += np.where(ours > 0, np.log(both / ours), 0.0)
            orders += ours > 0
        brevity = np.where(length < reference, 1 - reference / length, 0.0)
        score = 100.0 * np.exp(brevity + logs / orders)
    empty = np.where(reference == 0, 100.0, 0.0)
    return np.where(length > 0, np.nan_to_num(score), empty)


def chrf_counts(answer: str, reference: str) -> list[int]:
    """For each order 1 to 6: n-grams of characters of the answer, of the reference, of both.

    Spaces do not count.
    """
    ours, theirs = "".join(answer.split()), "".join(reference.split())
    return [n for order in range(1, CHRF_CHARACTERS + 1) for n in overlap(ours, theirs, order)]


def chrf_word_counts(units: Sequence[str], reference: Sequence[str]) -> list[int]:
    """The counts that chrF++ adds: n-grams of words, orders 1 and 2."""
    return [n for order in range(1, CHRF_WORDS + 1) for n in overlap(units, reference, order)]


def chrf(counts: Array) -> Array:
    """Corpus chrF2 (or chrF2++), 0 to 100, from summed counts [..., 3 x orders].

    Precision and recall are means over the orders that both sides are long enough for.
    """
    by_order = counts.reshape(*counts.shape[:-1], -1, 3)
    ours, theirs, both = by_order[..., 0], by_order[..., 1], by_order[..., 2]
    used = (ours > 0) & (theirs > 0)
    orders = used.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(used, both / ours, 0.0).sum(-1) / orders
        recall = np.where(used, both / theirs, 0.0).sum(-1) / orders
        factor = _BETA**2
        score = 100 * (1 + factor) * precision * recall / (factor * precision + recall)
    neither = (ours.sum(-1) == 0) & (theirs.sum(-1) == 0)
    return np.where(neither, 100.0, np.nan_to_num(score))
