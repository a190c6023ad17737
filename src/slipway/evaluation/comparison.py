"""Models against the baseline: metric by metric with intervals, and row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.files import write_text
from slipway.core.i18n import Text
from slipway.evaluation.bootstrap import Difference, difference, interval
from slipway.evaluation.metrics import METRICS, Measured
from slipway.evaluation.predictions import Prediction

# the metric by which a row got better or worse: the first of these that was measured
_ROW_METRICS = ("rouge_l", "accuracy", "loss")
_NOTICEABLE = {"points": 5.0, "nats": 0.05}
_NAMED = 20


@dataclass(frozen=True, slots=True)
class Scored:
    """One model's rows: metric -> its numbers, and the ids they belong to, in order.

    Loss rows, answered rows and choices may differ, so each metric has its own ids.
    """

    label: str
    metrics: Mapping[str, Measured]
    ids: Mapping[str, Sequence[str]]

    def common(self, other: Scored, name: str) -> tuple[Measured, Measured, list[str]]:
        """This and the other's numbers of a metric over the rows that both have."""
        theirs = {key: at for at, key in enumerate(other.ids[name])}
        pairs = [(at, theirs[key]) for at, key in enumerate(self.ids[name]) if key in theirs]
        a, b = self.metrics[name], other.metrics[name]
        return (
            Measured(a.metric, a.rows[[at for at, _ in pairs]]),
            Measured(b.metric, b.rows[[at for _, at in pairs]]),
            [self.ids[name][at] for at, _ in pairs],
        )


def intervals(scored: Scored, *, seed: int, resamples: int) -> dict[str, dict[str, float]]:
    """Metric -> value, low, high, rows; for one model by itself."""
    return {
        name: {
            **interval(measured, seed=seed, resamples=resamples).as_json(),
            "rows": len(measured.rows),
        }
        for name, measured in scored.metrics.items()
        if len(measured.rows)
    }


def differences(
    model: Scored, baseline: Scored, *, seed: int, resamples: int
) -> dict[str, Difference]:
    """Metric -> the difference over the rows that both models have."""
    found = {}
    for name in model.metrics:
        if name not in baseline.metrics:
            continue
        a, b, ids = model.common(baseline, name)
        if ids:
            found[name] = difference(a, b, seed=seed, resamples=resamples)
    return found


def changed_rows(model: Scored, baseline: Scored) -> dict[str, Any]:
    """Which rows got noticeably better or worse, the largest change first.

    Returns:
        metric, threshold, better and worse (counts), better_rows and worse_rows
        (the first of them: id, from, to), same.
    """
    name = next((n for n in _ROW_METRICS if n in model.metrics and n in baseline.metrics), None)
    if name is None:
        return {}
    a, b, ids = model.common(baseline, name)
    sign = 1.0 if METRICS[name].better == "higher" else -1.0
    threshold = _NOTICEABLE[METRICS[name].unit]
    rows = sorted(
        (sign * (float(to) - float(before)), key, float(before), float(to))
        for key, to, before in zip(ids, a.each, b.each, strict=True)
    )
    better = [row for row in reversed(rows) if row[0] >= threshold]
    worse = [row for row in rows if row[0] <= -threshold]

    def shown(some: Sequence[tuple[float, str, float, float]]) -> list[dict[str, Any]]:
        return [
            {"id": key, "from": round(before, 3), "to": round(to, 3)}
            for _, key, before, to in some[:_NAMED]
        ]

    return {
        "metric": name,
        "threshold": threshold,
        "better": len(better),
        "worse": len(worse),
        "same": len(rows) - len(better) - len(worse),
        "better_rows": shown(better),
        "worse_rows": shown(worse),
    }


def write_row_differences(
    path: Path,
    model: Scored,
    baseline: Scored,
    answers: Mapping[str, Prediction],
    before: Mapping[str, Prediction],
) -> None:
    """One JSON line for each row that both answered: prompt, label, both answers, both scores.

    The rows that lost most come first.
    """
    if "rouge_l" not in model.metrics or "rouge_l" not in baseline.metrics:
        return
    table: dict[str, dict[str, Any]] = {}
    for name in ("rouge_l", "chrf", "exact_match", "loss"):
        if name not in model.metrics or name not in baseline.metrics:
            continue
        a, b, ids = model.common(baseline, name)
        for key, to, was in zip(ids, a.each, b.each, strict=True):
            table.setdefault(key, {})[name] = [round(float(was), 3), round(float(to), 3)]
    lines = []
    for key, scores in table.items():
        if key not in answers or key not in before:
            continue
        was, to = scores["rouge_l"]
        row = {
            "id": key,
            "change": round(to - was, 3),
            "prompt": answers[key].prompt,
            "label": answers[key].label,
            "baseline": before[key].predict,
            "predict": answers[key].predict,
            "scores": scores,
        }
        lines.append(row)
    lines.sort(key=lambda row: float(str(row["change"])))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))


def verdicts(found: Mapping[str, Difference], model: str, baseline: str) -> list[Text]:
    """One sentence for each metric, in order."""
    return [item.sentence(model, baseline) for item in found.values()]
