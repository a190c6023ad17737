"""Two finished evaluations side by side: the rows they have in common, paired."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest
from slipway.evaluation import metrics
from slipway.evaluation.bootstrap import RESAMPLES
from slipway.evaluation.comparison import Scored, changed_rows, differences
from slipway.evaluation.plan import CHOICES, PREDICTIONS, RESULTS
from slipway.evaluation.predictions import read_lines, read_predictions


@dataclass(frozen=True, slots=True)
class Chosen:
    """One model of one evaluation."""

    folder: Path
    label: str
    results: dict[str, Any]


def choose(folder: Path, label: str | None) -> Chosen:
    """A model of a finished evaluation; the last one when no label is given.

    Raises:
        NotFoundError: no finished evaluation there, or no such model in it.
        InputError: its results are of another kind.
    """
    read_manifest(folder, kind="evaluation")
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if "models" not in results:
        raise InputError(
            "eval.old_results",
            tr("{path} compares quants; only results of `slipway eval MODEL` can be compared",
               path=str(folder)),
        )  # fmt: skip
    labels = list(results["models"])
    if label is not None and label not in labels:
        raise NotFoundError(
            "eval.no_label_there",
            tr("{path} has no model {label}", path=str(folder), label=label),
            tr("known models: {names}", names=", ".join(labels)),
        )
    return Chosen(folder, label or labels[-1], results)


def compare_folders(
    before: Chosen, after: Chosen, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`after` against `before`, on the rows that both have with the same reference.

    Returns:
        before, after (label and folder), rows (of the metric with most), differences and changed
        as in `results.json`, sentences (English), settings (those that differ).

    Raises:
        InputError: they have no row in common.
    """
    a, b = _scored(after), _scored(before)
    found = differences(a, b, seed=seed, resamples=resamples)
    if not found:
        raise InputError(
            "eval.nothing_common",
            tr("{a} and {b} have no row in common", a=str(before.folder), b=str(after.folder)),
            tr("evaluate both on the same data"),
        )
    names = {**before.results["settings"], **after.results["settings"]}
    changed = {
        name: [before.results["settings"].get(name), after.results["settings"].get(name)]
        for name in names
        if before.results["settings"].get(name) != after.results["settings"].get(name)
    }
    one, two = _names(before, after)
    return {
        "before": {"label": one, "folder": str(before.folder)},
        "after": {"label": two, "folder": str(after.folder)},
        "rows": max(d.rows for d in found.values()),
        "differences": {name: d.as_json() for name, d in found.items()},
        "sentences": [d.sentence(two, one).en for d in found.values()],
        "changed": changed_rows(a, b),
        "settings": changed,
    }


def _names(before: Chosen, after: Chosen) -> tuple[str, str]:
    if before.label != after.label:
        return before.label, after.label
    return f"{before.folder.name}:{before.label}", f"{after.folder.name}:{after.label}"


def _scored(chosen: Chosen) -> Scored:
    found: dict[str, metrics.Measured] = {}
    ids: dict[str, list[str]] = {}

    def add(measured: dict[str, metrics.Measured], keys: list[str]) -> None:
        found.update(measured)
        ids.update(dict.fromkeys(measured, keys))

    loss = chosen.folder / "parts" / f"{chosen.label}.loss.json"
    if loss.is_file():
        rows = json.loads(loss.read_text(encoding="utf-8"))["value"]["rows"]
        add(metrics.losses([(r[1], r[2]) for r in rows]), [r[0] for r in rows])
    answers = chosen.folder / PREDICTIONS / f"{chosen.label}.jsonl"
    if answers.is_file():
        made = read_predictions(answers)
        texts = metrics.score_texts([p.predict for p in made], [p.label for p in made])
        # a row is the same row only with the same reference
        add(texts, [f"{p.id}\n{p.label}" for p in made])
    choices = chosen.folder / CHOICES / f"{chosen.label}.jsonl"
    if choices.is_file():
        given = list(read_lines(choices))
        right = [100.0 * (g["given"] == g["answer"]) for g in given]
        add(
            {"accuracy": metrics.mean_of(metrics.ACCURACY, right)},
            [f"{g['id']}\n{g['answer']}" for g in given],
        )
    return Scored(chosen.label, found, ids)
