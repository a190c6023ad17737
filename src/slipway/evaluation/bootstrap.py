"""How sure a score is, and whether two models differ: the paired bootstrap.

Rows are drawn with replacement, the same rows for both models, and the score is computed anew from
the drawn rows' numbers (Koehn 2004; percentile interval, Efron 1979). What is resampled is the set
of rows: the interval says nothing about another sampling temperature or another training seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from slipway.core.i18n import Text, tr
from slipway.evaluation.metrics import Measured
from slipway.evaluation.ngrams import Array

RESAMPLES = 1000
LEVEL = 0.95
FEWEST_ROWS = 8
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval, in the metric's unit."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """value, low, high; rounded to five places."""
        return {
            "value": round(self.value, 5),
            "low": round(self.low, 5),
            "high": round(self.high, 5),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """A model against the baseline in one metric.

    Attributes:
        change: model minus baseline.
        real: the interval leaves out 0, and there are rows enough to say so.
        better: the change is to the good side; None when there is no change.
    """

    metric: str
    rows: int
    change: Interval
    real: bool
    better: bool | None

    def as_json(self) -> dict[str, Any]:
        """The difference as `results.json` holds it."""
        return {**self.change.as_json(), "rows": self.rows, "real": self.real} | {
            "better": self.better
        }

    def sentence(self, model: str, baseline: str) -> Text:
        """The verdict for people."""
        values: dict[str, object] = {
            "model": model,
            "baseline": baseline,
            "metric": self.metric,
            "change": f"{self.change.value:+.3g}",
            "low": f"{self.change.low:+.3g}",
            "high": f"{self.change.high:+.3g}",
            "rows": self.rows,
        }
        if self.rows < FEWEST_ROWS:
            return tr(
                "{metric}: {rows} rows are too few to tell {model} from {baseline} ({change})",
                **values,
            )
        if not self.real:
            return tr(
                "{metric}: no real difference between {model} and {baseline} ({change}, "
                "95 % interval {low} to {high})",
                **values,
            )
        if self.better:
            return tr(
                "{metric}: {model} is really better than {baseline} ({change}, "
                "95 % interval {low} to {high})",
                **values,
            )
        return tr(
            "{metric}: {model} is really worse than {baseline} ({change}, "
            "95 % interval {low} to {high})",
            **values,
        )


def draws(measured: Measured, *, seed: int, resamples: int = RESAMPLES) -> Array:
    """The score of each resample: [resamples].

    Sets with the same number of rows and the same seed are drawn alike, which pairs them.
    """
    rows = len(measured.rows)
    random = np.random.default_rng(seed)
    scores = []
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        drawn = random.integers(0, rows, size=(count, rows))
        times = np.zeros((count, rows))
        for at in range(count):
            times[at] = np.bincount(drawn[at], minlength=rows)
        scores.append(measured.metric.score(times @ measured.rows))
    return np.concatenate(scores)


def interval(measured: Measured, *, seed: int, resamples: int = RESAMPLES) -> Interval:
    """The score over all rows, with its interval."""
    return _interval(measured.value, draws(measured, seed=seed, resamples=resamples))


def difference(
    model: Measured, baseline: Measured, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """The model against the baseline on the same rows, in the same order.

    Raises:
        ValueError: different metrics or numbers of rows.
    """
    if model.metric.name != baseline.metric.name or model.rows.shape != baseline.rows.shape:
        raise ValueError("only the same metric over the same rows can be compared")
    change = draws(model, seed=seed, resamples=resamples) - draws(
        baseline, seed=seed, resamples=resamples
    )
    found = _interval(model.value - baseline.value, change)
    rows = len(model.rows)
    real = rows >= FEWEST_ROWS and (found.low > 0 or found.high < 0)
    up = found.value > 0
    better = None if found.value == 0 else up == (model.metric.better == "higher")
    return Difference(model.metric.name, rows, found, real, better)


def _interval(value: float, scores: Array) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
