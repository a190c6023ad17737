"""How long a run is and what happens at each step: pure functions of values.

The order of the data is a function of (lengths, seed, epoch), and the schedule one of (step,
total), so the step number is all the position a checkpoint must keep.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

LEAST_STEPS = 8
EVALS = 4
_SAFETY = 0.97  # part of the remaining seconds that is planned; the rest is for jitter


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's length, decided once and kept in its checkpoints.

    Attributes:
        reason: what set the length: `epochs`, `max_steps` or `time_budget`; or what ended it:
            `early_stopping`, or `kept` when somebody wanted to keep what there was.
        tokens_per_s: measured before the first step (0 when nothing was measured).
        prepared_s: seconds of the run that had passed before the first step.
    """

    total_steps: int
    eval_every: int
    reason: Literal["epochs", "max_steps", "time_budget", "early_stopping", "kept"]
    tokens_per_s: float = 0.0
    prepared_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds measured before the first step."""

    step_s: float
    eval_s: float
    save_s: float
    finish_s: float


def step_rows(
    lengths: Sequence[int], batch_tokens: int, seed: int, batch_rows: int | None = None
) -> Iterator[tuple[int, list[int]]]:
    """The rows of each optimiser step, epoch after epoch without end, as (epoch, row numbers).

    Rows are shuffled anew in each epoch and cut so that a step holds at most `batch_tokens`
    tokens (or one longer row), or exactly `batch_rows` rows where that is given. The short last
    step of an epoch is kept.
    """
    epoch = 0
    while True:
        order = list(range(len(lengths)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        rows: list[int] = []
        tokens = 0
        for row in order:
            full = (
                tokens + lengths[row] > batch_tokens
                if batch_rows is None
                else len(rows) == batch_rows
            )
            if rows and full:
                yield epoch, rows
                rows, tokens = [], 0
            rows.append(row)
            tokens += lengths[row]
        yield epoch, rows
        epoch += 1


def steps_in_epochs(
    lengths: Sequence[int],
    batch_tokens: int,
    seed: int,
    epochs: float,
    limit: int | None = None,
    batch_rows: int | None = None,
) -> int:
    """Optimiser steps in `epochs` times through the data; a part of an epoch is rounded up.

    Args:
        limit: stop counting beyond so many steps; the result is then larger than `limit`.
    """
    whole = math.floor(epochs)
    full = in_epoch = current = 0  # steps of whole epochs, steps of the current one, its number
    for epoch, _ in step_rows(lengths, batch_tokens, seed, batch_rows):
        if epoch != current:
            if current == whole:
                break
            full, in_epoch, current = full + in_epoch, 0, epoch
        if limit is not None and full > limit:
            return full
        in_epoch += 1
    return max(1, full + math.ceil((epochs - whole) * in_epoch))


def eval_interval(total_steps: int, eval_every: int, evals: int = EVALS) -> int:
    """Steps between evals; 0 means that `evals` are spread over the run, one at its end."""
    return eval_every or max(1, math.ceil(total_steps / evals))


def affordable_evals(seconds: float, eval_s: float) -> int:
    """How many of `EVALS` evals fit into a seventh of the seconds; at least the last one."""
    return max(1, min(EVALS, math.floor(seconds / 7 / max(eval_s, 1e-6))))


def make_plan(
    epoch_steps: int,
    *,
    max_steps: int | None,
    eval_every: int,
    seconds_left: float | None = None,
    costs: Costs | None = None,
    save_every_s: float = 60.0,
    tokens_per_s: float = 0.0,
) -> Plan:
    """The longest run that respects epochs, `max_steps` and the seconds left.

    Args:
        seconds_left: of the time budget, after loading and measuring; None without a budget.
        costs: what was measured; needed with `seconds_left`.
    """
    total, reason = epoch_steps, "epochs"
    if max_steps is not None and max_steps < total:
        total, reason = max_steps, "max_steps"
    evals = EVALS
    if seconds_left is not None and costs is not None:
        evals = affordable_evals(seconds_left, costs.eval_s)
        affordable = _affordable(seconds_left * _SAFETY, eval_every, evals, costs, save_every_s)
        if affordable < total:
            total, reason = affordable, "time_budget"
    return Plan(total, eval_interval(total, eval_every, evals), reason, tokens_per_s)  # type: ignore[arg-type]


def shortened(plan: Plan, step: int, seconds: float, budget_s: float, finish_s: float) -> Plan:
    """The plan cut to the time budget when the steps took much longer than was measured.

    A machine that others use too may slow down after the measurement. The plan is looked at after
    each quarter of it, and cut only when it would overrun by more than a tenth of its steps.

    Args:
        step, seconds: done and passed so far.
    """
    quarter = max(1, plan.total_steps // 4)
    if step % quarter or not 0 < step < plan.total_steps:
        return plan
    step_s = (seconds - plan.prepared_s) / step
    total = step + max(1, math.floor((budget_s - finish_s - seconds) / step_s))
    if total > 0.9 * plan.total_steps:
        return plan
    return replace(plan, total_steps=total, reason="time_budget")


def _affordable(
    seconds: float, eval_every: int, evals: int, costs: Costs, save_every_s: float
) -> int:
    """Steps that fit `seconds` with their evals and saves, at least `LEAST_STEPS`."""
    step_s = max(costs.step_s, 1e-6)
    step_with_saves = step_s * (1 + costs.save_s / save_every_s)
    seconds -= costs.finish_s + costs.save_s
    if eval_every:
        steps = seconds / (step_with_saves + costs.eval_s / eval_every)
    else:
        steps = (seconds - evals * costs.eval_s) / step_with_saves
    return max(LEAST_STEPS, math.floor(steps))


def learning_rate(
    step: int,
    total: int,
    *,
    peak: float,
    warmup_ratio: float,
    schedule: str,
    warmup_steps: int | None = None,
    min_ratio: float = 0.0,
) -> float:
    """The rate of a step (from 1): linear warm-up, then as the schedule falls.

    The schedules are transformers' (`optimization.py`): `cosine` and `linear` end at zero,
    `cosine_with_min_lr` and `polynomial` (of power 1) at `min_ratio` of the peak, `inverse_sqrt`
    falls with the root of the steps since the warm-up began, and the constant ones do not fall.

    Args:
        warmup_steps: steps that warm up; None: `warmup_ratio` of all.
    """
    warm = math.ceil(total * warmup_ratio) if warmup_steps is None else min(warmup_steps, total)
    if step <= warm:
        return peak * step / warm
    progress = (step - 1 - warm) / max(1, total - warm)
    half_wave = 0.5 * (1 + math.cos(math.pi * progress))
    match schedule:
        case "constant" | "constant_with_warmup":
            return peak
        case "linear":
            return peak * (1 - progress)
        case "polynomial":
            return peak * (min_ratio + (1 - min_ratio) * (1 - progress))
        case "cosine_with_min_lr":
            return peak * (min_ratio + (1 - min_ratio) * half_wave)
        case "inverse_sqrt":
            scale = warm or 10_000  # transformers' time scale without a warm-up
            return peak * math.sqrt(scale / (step - 1 - warm + scale))
        case _:
            return peak * half_wave
