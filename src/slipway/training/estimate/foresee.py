"""The estimate inside a run: told before the weights are loaded, compared when all is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from slipway.core.errors import SlipwayError
from slipway.core.events import EventLog
from slipway.datasets import Encoded
from slipway.training.estimate.compare import Comparison, compare
from slipway.training.estimate.make import estimate, free_bytes
from slipway.training.estimate.parts import Estimate
from slipway.training.estimate.work import plan_work
from slipway.training.spec import TrainSpec

# estimating takes seconds of the budget itself; a run this short is over before it would be of use
_LEAST_BUDGET_S = 60.0


def foresee(
    spec: TrainSpec,
    rows: Sequence[Encoded],
    heldout: Sequence[Encoded],
    events: EventLog,
    started: float,
) -> Estimate | None:
    """Estimate a run that is about to load its model, and tell it as an event.

    None when no estimate can be made: that is told, and is no reason not to train.

    Args:
        started: `time.perf_counter()` at the start of the run.
    """
    if spec.time_budget_s is not None and spec.time_budget_s < _LEAST_BUDGET_S:
        events.emit("log", message=f"no estimate: the budget is under {_LEAST_BUDGET_S:.0f} s")
        return None
    if spec.stage in ("rloo", "grpo"):
        events.emit("log", message="no estimate: how long the drawn answers get is not known")
        return None
    process = int(psutil.Process().memory_info().rss)
    try:
        work = plan_work(spec, _lengths(rows), _lengths(heldout))
        found = estimate(spec, Path(spec.model), rows, work, process_bytes=process, started=started)
    except SlipwayError:
        raise  # what the run would stop at too: a target that the model lacks, a bad folder
    except Exception as error:  # whatever a model's own code does on made-up weights
        events.emit("log", message=f"no estimate: {type(error).__name__}: {error}")
        return None
    need, free = found.memory.total, free_bytes(process)
    events.emit(
        "log",
        message=f"estimate: {need / 1e9:.2f} GB at most, {found.seconds.total:.0f} s, "
        f"{found.tokens_per_s:.0f} tokens/s"
        + (f"; ONLY {free / 1e9:.2f} GB ARE FREE" if need > free else ""),
        estimate=found.as_json(),
    )
    return found


def _lengths(rows: Sequence[Encoded]) -> list[int]:
    lengths = getattr(rows, "lengths", None)
    if lengths is not None:
        return [int(n) for n in lengths]
    return [len(row.input_ids) for row in rows]


def settle(
    found: Estimate | None, metrics: Mapping[str, Any], events: EventLog
) -> dict[str, Any] | None:
    """Compare with what was measured, tell it, and give what the manifest keeps."""
    if found is None:
        return None
    comparison: Comparison = compare(found, metrics)
    told = comparison.as_json()
    events.emit("log", message=comparison.sentence().en, comparison=told)
    return {**found.as_json(), "compared": told}
