"""How near an answer is to the reference: ROUGE-L over words (characters for Chinese), and chrF."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slipway.core.errors import missing_extra

# CJK ideographs, kana and hangul count one by one; other letters and digits as words
_CJK = "\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uac00-\\ud7af"
_TOKEN = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """The units of ROUGE-L: lower-case words, and single characters of Chinese and its kin."""
    return _TOKEN.findall(text.lower())


class WordTokenizer:
    """`words` in the shape that `rouge_score` asks for."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over all answers.

    Attributes:
        chrf: corpus chrF2 (character 6-grams, beta 2; Popović 2015), 0 to 100.
        rouge_l: mean F1 of the longest common subsequence (Lin 2004), 0 to 1.
    """

    chrf: float
    rouge_l: float


def score(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Score answers against references, one each, in order.

    Raises:
        ResourceError: `sacrebleu` or `rouge-score` is not installed.
        ValueError: different lengths, or none.
    """
    if len(answers) != len(references) or not answers:
        raise ValueError(f"{len(answers)} answers, {len(references)} references")
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise missing_extra(error.name or "sacrebleu", "train") from error
    scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
    total = sum(
        scorer.score(reference, answer)["rougeL"].fmeasure
        for answer, reference in zip(answers, references, strict=True)
    )
    chrf = CHRF().corpus_score(list(answers), [list(references)]).score
    return Scores(round(float(chrf), 2), round(total / len(answers), 4))
