"""LLaMA Factory's scores, for comparing with results that it made earlier.

They differ from ours: the mean over answers of a sentence score; ROUGE over the *set* of n-grams of
jieba's pieces, punctuation included; BLEU-4 over single characters with the third smoothing of Chen
and Cherry 2014. An empty text scores 0. Rounded to four places for each row, as there.
"""

from __future__ import annotations

import math
import re

from slipway.evaluation.ngrams import common_length, overlap
from slipway.evaluation.segment import jieba_cut

_BREAK = re.compile(r"(?<=[。！？?])(?=[^”’])|\n")
_TINY = 1e-8


def rouge_scores(answer: str, reference: str) -> list[float]:
    """[ROUGE-1, ROUGE-2, ROUGE-L], 0 to 100."""
    ours, theirs = _pieces(answer), _pieces(reference)
    if not " ".join(jieba_cut(answer)).split() or not " ".join(jieba_cut(reference)).split():
        return [0.0, 0.0, 0.0]
    scores = []
    for order in (1, 2):
        a = {tuple(ours[at : at + order]) for at in range(len(ours) - order + 1)}
        b = {tuple(theirs[at : at + order]) for at in range(len(theirs) - order + 1)}
        scores.append(_f(len(a & b), len(a), len(b)))
    scores.append(_f(common_length(ours, theirs), len(ours), len(theirs)))
    return [round(100 * score, 4) for score in scores]


def _pieces(text: str) -> list[str]:
    """Jieba's pieces; a blank line within the text counts as one empty piece."""
    found: list[str] = []
    for line in _BREAK.split(" ".join(jieba_cut(text)).rstrip()):
        if line:
            found += line.split() or [""]
    return found


def _f(both: int, ours: int, theirs: int) -> float:
    precision = both / ours if ours else 0.0
    recall = both / theirs if theirs else 0.0
    return 2 * precision * recall / (precision + recall + _TINY)


def bleu_4(answer: str, reference: str) -> float:
    """Sentence BLEU-4 over characters, 0 to 100.

    The k-th order without a match counts as 1 / (2^k x n-grams) instead of 0.
    """
    if not answer or not reference:
        return 0.0
    total, missed = 0.0, 0
    for order in range(1, 5):
        ours, _, both = overlap(answer, reference, order)
        ours = max(1, ours)
        if order == 1 and not both:
            return 0.0
        if not both:
            missed += 1
        total += math.log(both / ours if both else 1 / (2**missed * ours)) / 4
    brevity = min(0.0, 1 - len(reference) / len(answer))
    return round(100 * math.exp(brevity + total), 4)
