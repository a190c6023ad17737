"""A reward model on pairs: how often it gives the chosen answer more than the rejected one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from slipway.core.errors import InputError, UsageError
from slipway.core.files import write_json, write_text
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, read_manifest
from slipway.evaluation.questions import load_part
from slipway.evaluation.run_data import Part, RunData, data_of_run
from slipway.export.eval_inputs import spread

SCORES = "scores.jsonl"
RESULTS = "results.json"
_Z = 1.959964  # of a 95 % interval


def evaluate_pairs(
    run: Path,
    out_dir: Path,
    *,
    data: Path | None = None,
    part: Part = "heldout",
    rows: int | None = None,
    dtype: str = "auto",
    on_pack: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score the pairs of a set with a run of stage rm; write `results.json` and `scores.jsonl`.

    Args:
        data: dataset folder or file; None: the run's own.
        rows: at most so many pairs, taken evenly over the whole.

    Returns:
        `pair_accuracy` (with its 95 % interval, Wilson 1927), `loss` (-log of the probability that
        Bradley and Terry's model gives to the right order), `margin`, `ties`, `pairs`, `dropped`.

    Raises:
        InputError: the run is no reward model, or the set holds no pair.
        UsageError: no data was named, and the run's own is gone.
        NotFoundError: run, base or data are gone.
    """
    from slipway.training.reward_model import load_reward

    manifest = read_manifest(run, kind="run")
    source = data or _data_of(run, manifest)
    samples = spread([s for s in load_part(source, part) if s.kind == "preference"], rows)
    model = load_reward(run, dtype=dtype)
    kept, documents = [], []
    for sample in samples:
        both = model.encode(sample)
        if len(both) == 2:
            kept.append(sample)
            documents += both
    if not kept:
        raise InputError(
            "eval.no_pairs",
            tr("{path} holds no pair of a chosen and a rejected answer", path=str(source)),
            tr("look at the rows with `slipway data check {path}`", path=str(source)),
        )
    scores = model.score(documents, on_pack)
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    results: dict[str, Any] = {
        "run": manifest.digest,
        "data": str(source),
        "part": part,
        "pairs": len(pairs),
    }
    results |= {"dropped": len(samples) - len(kept), "metrics": measured(pairs)}
    lines = [
        json.dumps({"id": sample.id, "chosen": round(w, 6), "rejected": round(v, 6)})
        for sample, (w, v) in zip(kept, pairs, strict=True)
    ]
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / SCORES, "\n".join(lines) + "\n")
    write_json(out_dir / RESULTS, results)
    return results


def _data_of(run: Path, manifest: Manifest) -> Path | RunData:
    source = data_of_run(run, manifest)
    if source is None:
        raise UsageError(
            "eval.no_data",
            tr("the data of the run {run} is no longer where it was", run=str(run)),
            tr("name the rows to measure on with `--data`"),
        )
    return source


def measured(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The metrics of (chosen, rejected) scores. A tie is no right order."""
    right = sum(chosen > rejected for chosen, rejected in pairs)
    low, high = wilson(right, len(pairs))
    return {
        "pair_accuracy": {"value": right / len(pairs), "low": low, "high": high},
        "loss": fmean(_softplus(rejected - chosen) for chosen, rejected in pairs),
        "margin": fmean(chosen - rejected for chosen, rejected in pairs),
        "ties": sum(chosen == rejected for chosen, rejected in pairs),
    }


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); it holds for few rows and for shares near 1."""
    share, square = right / count, _Z**2
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (
        max(0.0, (middle - half) / (1 + square / count)),
        min(1.0, (middle + half) / (1 + square / count)),
    )


def _softplus(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
