"""From a recipe and the lengths of its rows to what the run has to do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import islice

from slipway.training.estimate.parts import Work
from slipway.training.objectives.units import forward_tokens, rows_of, unit_lengths
from slipway.training.plan import make_plan, step_rows, steps_in_epochs
from slipway.training.spec import TrainSpec

_LOOKED_AT = 32  # first steps among which the largest pack is sought
_TYPICAL_PACKS = 2


def plan_work(spec: TrainSpec, lengths: Sequence[int], heldout: Sequence[int]) -> Work:
    """The work of a run without a time budget.

    Args:
        lengths, heldout: tokens of each training and held-out row.
    """
    rows, lengths = lengths, unit_lengths(spec.stage, lengths)
    cut = (lengths, spec.batch_tokens, spec.seed)
    steps = steps_in_epochs(*cut, spec.epochs, spec.max_steps, spec.batch_rows)
    eval_every = spec.eval_every
    if spec.eval_each_epoch:
        eval_every = steps_in_epochs(*cut, 1, batch_rows=spec.batch_rows)
    plan = make_plan(steps, max_steps=spec.max_steps, eval_every=eval_every)
    packs = []
    sizes = []
    for _, numbers in islice(step_rows(*cut, spec.batch_rows), _LOOKED_AT):
        packs += _packs(numbers, lengths, spec.pack_tokens)
        sizes.append(sum(lengths[i] for i in numbers))
        if len(sizes) == plan.total_steps:
            break
    packs.sort(key=lambda pack: sum(lengths[i] for i in pack))
    middle = max(0, len(packs) // 2 - _TYPICAL_PACKS // 2)
    typical = rows_of(
        spec.stage, (i for pack in packs[middle : middle + _TYPICAL_PACKS] for i in pack)
    )
    evals = 1 + plan.total_steps // plan.eval_every + (plan.total_steps % plan.eval_every > 0)
    step_tokens = statistics.fmean(sizes)
    learned = plan.total_steps * step_tokens
    return Work(
        steps=plan.total_steps,
        step_tokens=step_tokens,
        eval_tokens=sum(heldout),
        evals=evals if heldout else 0,
        saves=1 + (plan.total_steps // spec.save_every_steps if spec.save_every_steps else 0),
        probe=rows_of(spec.stage, packs[-1]),
        typical=typical,
        forward_tokens=forward_tokens(spec, learned, sum(rows), sum(heldout)),
    )


def _packs(numbers: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of a step, cut into packs of at most `capacity` tokens."""
    packs: list[list[int]] = [[]]
    tokens = 0
    for number in numbers:
        if packs[-1] and tokens + lengths[number] > capacity:
            packs.append([])
            tokens = 0
        packs[-1].append(number)
        tokens += lengths[number]
    return packs
