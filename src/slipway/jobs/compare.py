"""Two or more runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.jobs.run_folder import manifest_of, settings_of
from slipway.jobs.runs import Run

# numbers in which smaller is better come first; the table has them in this order
METRICS = (
    "eval_loss",
    "best_eval_loss",
    "base_eval_loss",
    "train_loss",
    "steps",
    "tokens",
    "tokens_per_s",
    "seconds",
    "peak_memory_bytes",
)
# how a run is called and where it reports, which changes nothing in it
_NAMES = frozenset({"label", "tags", "report_to"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side; each list has one entry for each run, in the order asked for.

    Attributes:
        settings: the keys in which they differ -> the values (None: not known).
        metrics: name -> the values (None: not measured).
        change: metric -> how it differs from the first run's, as a ratio minus one.
        against_base: eval loss against the same run's before training, as a ratio minus one.
    """

    runs: tuple[Run, ...]
    settings: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    change: dict[str, list[float | None]]
    against_base: list[float | None]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs; the first is the one the others are measured against.

    Raises:
        UsageError: there are fewer than two.
    """
    if len({run.id for run in runs}) < 2:
        raise UsageError(
            "runs.compare_two",
            tr("it takes two different runs to compare"),
            tr("see them with `slipway runs ls`"),
        )
    numbers = [_metrics(run) for run in runs]
    metrics = {
        name: [each.get(name) for each in numbers]
        for name in METRICS
        if any(each.get(name) is not None for each in numbers)
    }
    change = {name: [_change(v, values[0]) for v in values] for name, values in metrics.items()}
    base = [_change(n.get("eval_loss"), n.get("base_eval_loss")) for n in numbers]
    return Comparison(tuple(runs), _differences(runs), metrics, change, base)


def _change(value: float | None, first: float | None) -> float | None:
    if value is None or first is None or first == 0:
        return None
    return value / first - 1


def _differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    all_settings = [settings_of(run.folder, manifest_of(run.folder)) for run in runs]
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    found = {}
    for key in keys:
        values = [settings[key].value if key in settings else None for settings in all_settings]
        if key not in _NAMES and any(value != values[0] for value in values):
            found[key] = values
    return found


def _metrics(run: Run) -> dict[str, float | None]:
    """The manifest's numbers; of a run without one, the newest of its events."""
    manifest = manifest_of(run.folder)
    summary = run.summary
    seconds = None
    if summary.started_at is not None and summary.updated_at is not None:
        seconds = round(summary.updated_at - summary.started_at, 1)
    found: dict[str, Any] = {
        "eval_loss": summary.eval_loss,
        "best_eval_loss": summary.best_eval_loss,
        "base_eval_loss": summary.base_eval_loss,
        "train_loss": summary.loss,
        "steps": summary.step,
        "tokens": summary.tokens,
        "tokens_per_s": summary.tokens_per_s,
        "seconds": seconds,
        "peak_memory_bytes": summary.memory_bytes,
    }
    if manifest:
        found.update({k: manifest.metrics[k] for k in METRICS if k in manifest.metrics})
    return {k: v if isinstance(v, int | float) else None for k, v in found.items()}
