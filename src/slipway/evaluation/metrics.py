"""Every metric as two functions: numbers for each row, and a score from their sum.

A mean is a sum of values and of ones; BLEU and chrF sum n-gram counts; a loss sums losses and
tokens. So one bootstrap serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slipway.evaluation import lf_metrics, ngrams
from slipway.evaluation.ngrams import Array
from slipway.evaluation.segment import answer_of, by_character, by_word, has_cjk, normalised

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A score that is a function of summed row numbers.

    Attributes:
        better: which way is good.
        score: summed numbers [..., K] -> score [...].
        unit: "points" of 100, or "nats", or "" for a perplexity.
    """

    name: str
    better: Better
    score: Callable[[Array], Array]
    unit: str = "points"


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric's numbers for one model: `rows` is [answers, K], in the order of the rows."""

    metric: Metric
    rows: Array

    @property
    def value(self) -> float:
        """The score over all rows."""
        return float(self.metric.score(self.rows.sum(0)))

    @property
    def each(self) -> Array:
        """The score of every row by itself: [answers]."""
        return self.metric.score(self.rows)


def _mean(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(sums[..., 0] / sums[..., 1])


def _perplexity(sums: Array) -> Array:
    return np.exp(np.minimum(_mean(sums), 700.0))


LOSS = Metric("loss", "lower", _mean, "nats")
PERPLEXITY = Metric("perplexity", "lower", _perplexity, "")
ACCURACY = Metric("accuracy", "higher", _mean)
TEXT = ("rouge_1", "rouge_2", "rouge_l", "bleu_4", "chrf", "exact_match")
WORDS = tuple(f"{name}_words" for name in TEXT[:-1])
LF = ("lf_rouge_1", "lf_rouge_2", "lf_rouge_l", "lf_bleu_4")
METRICS: dict[str, Metric] = {
    **{name: Metric(name, "higher", _mean) for name in (*TEXT, *WORDS, *LF)},
    **{name: Metric(name, "higher", ngrams.bleu) for name in ("bleu_4", "bleu_4_words")},
    **{name: Metric(name, "higher", ngrams.chrf) for name in ("chrf", "chrf_words")},
    "loss": LOSS,
    "perplexity": PERPLEXITY,
    "accuracy": ACCURACY,
}


def mean_of(metric: Metric, values: Sequence[float]) -> Measured:
    """A metric that is the mean of one value for each row."""
    return Measured(metric, np.array([[value, 1.0] for value in values]).reshape(-1, 2))


def score_texts(
    answers: Sequence[str], references: Sequence[str], *, lf: bool = False
) -> dict[str, Measured]:
    """Every text metric of answers against references, one each, in order; 0 to 100.

    `<think>...</think>` is not part of an answer. In Chinese the plain names count characters and
    the names with `_words` jieba's words (`chrf_words` is chrF++); these are left out when no text
    is Chinese, where both would be the same.

    Args:
        lf: add LLaMA Factory's own scores (`lf_...`), see `lf_metrics`.

    Raises:
        ResourceError: there is Chinese, or `lf`, and `jieba` is not installed.
        ValueError: different lengths.
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers, {len(references)} references")
    pairs = [(answer_of(a), answer_of(r)) for a, r in zip(answers, references, strict=True)]
    found = _scores(pairs, by_character, "")
    characters = np.array([ngrams.chrf_counts(a, r) for a, r in pairs], dtype=np.float64)
    found["chrf"] = Measured(METRICS["chrf"], characters)
    found["exact_match"] = mean_of(
        METRICS["exact_match"], [100.0 * (normalised(a) == normalised(r)) for a, r in pairs]
    )
    if has_cjk([text for pair in pairs for text in pair]):
        found |= _scores(pairs, by_word, "_words")
        words = [ngrams.chrf_word_counts(by_word(a), by_word(r)) for a, r in pairs]
        both = np.hstack([characters, np.array(words, dtype=np.float64)])
        found["chrf_words"] = Measured(METRICS["chrf_words"], both)
    if lf:
        found |= _lf(list(zip(answers, references, strict=True)))
    return found


def _scores(
    pairs: Sequence[tuple[str, str]], cut: Callable[[str], list[str]], end: str
) -> dict[str, Measured]:
    units = [(cut(a), cut(r)) for a, r in pairs]
    found = {
        f"rouge_1{end}": [ngrams.rouge_n(a, r, 1) for a, r in units],
        f"rouge_2{end}": [ngrams.rouge_n(a, r, 2) for a, r in units],
        f"rouge_l{end}": [ngrams.rouge_l(a, r) for a, r in units],
    }
    measured = {name: mean_of(METRICS[name], values) for name, values in found.items()}
    counts = np.array([ngrams.bleu_counts(a, r) for a, r in units], dtype=np.float64)
    measured[f"bleu_4{end}"] = Measured(METRICS[f"bleu_4{end}"], counts)
    return measured


def _lf(pairs: Sequence[tuple[str, str]]) -> dict[str, Measured]:
    rouge = [lf_metrics.rouge_scores(a, r) for a, r in pairs]
    columns = {f"lf_rouge_{name}": [row[at] for row in rouge] for at, name in enumerate("12l")}
    columns["lf_bleu_4"] = [lf_metrics.bleu_4(a, r) for a, r in pairs]
    return {name: mean_of(METRICS[name], values) for name, values in columns.items()}


def losses(per_row: Sequence[tuple[float, int]]) -> dict[str, Measured]:
    """Loss and perplexity from (sum of losses in nats, label tokens) of each row."""
    rows = np.array(per_row, dtype=np.float64).reshape(-1, 2)
    return {"loss": Measured(LOSS, rows), "perplexity": Measured(PERPLEXITY, rows)}
