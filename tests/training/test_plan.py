from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.training.plan import (
    LEAST_STEPS,
    Costs,
    Plan,
    affordable_evals,
    learning_rate,
    make_plan,
    shortened,
    step_rows,
    steps_in_epochs,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 5))
def test_an_epoch_holds_every_row_once_within_the_batch_size(
    lengths: list[int], batch_tokens: int, seed: int
) -> None:
    count = steps_in_epochs(lengths, batch_tokens, seed, 1)
    steps = list(islice(step_rows(lengths, batch_tokens, seed), count))
    assert sorted(row for _, rows in steps for row in rows) == list(range(len(lengths)))
    assert {epoch for epoch, _ in steps} == {0}
    for _, rows in steps:
        assert len(rows) == 1 or sum(lengths[row] for row in rows) <= batch_tokens


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    lengths = list(range(1, 30))
    first = list(islice(step_rows(lengths, 50, 1), 40))
    assert first == list(islice(step_rows(lengths, 50, 1), 40))
    assert first != list(islice(step_rows(lengths, 50, 2), 40))
    epochs = {epoch: [r for e, rows in first for r in rows if e == epoch] for epoch in (0, 1)}
    assert epochs[0] != epochs[1]


def test_part_of_an_epoch_is_rounded_up() -> None:
    lengths = [10] * 10
    assert steps_in_epochs(lengths, 20, 0, 1) == 5
    assert steps_in_epochs(lengths, 20, 0, 2.5) == 13
    assert steps_in_epochs(lengths, 20, 0, 0.01) == 1


@pytest.mark.parametrize("eval_every", [0, 10])
def test_a_budgeted_run_fits_its_seconds_with_evals_and_saves(eval_every: int) -> None:
    costs = Costs(step_s=1.0, eval_s=3.0, save_s=0.5, finish_s=2.0)
    plan = make_plan(10_000, max_steps=None, eval_every=eval_every, seconds_left=200, costs=costs)
    evals = plan.total_steps // plan.eval_every + 1
    saves = plan.total_steps / 60 + 1
    spent = plan.total_steps * 1.0 + evals * 3.0 + saves * 0.5 + 2.0
    assert plan.reason == "time_budget"
    assert 180 < spent <= 204


def test_the_shortest_limit_wins() -> None:
    costs = Costs(1.0, 0.0, 0.0, 0.0)
    assert make_plan(50, max_steps=None, eval_every=0).reason == "epochs"
    assert make_plan(50, max_steps=20, eval_every=0).total_steps == 20
    plan = make_plan(50, max_steps=20, eval_every=0, seconds_left=1000, costs=costs)
    assert (plan.total_steps, plan.reason) == (20, "max_steps")
    tight = make_plan(50, max_steps=None, eval_every=0, seconds_left=1, costs=costs)
    assert tight.total_steps == LEAST_STEPS


def test_the_rate_warms_up_and_falls_to_nearly_zero() -> None:
    def rates(schedule: str) -> list[float]:
        return [
            learning_rate(step, 100, peak=1.0, warmup_ratio=0.1, schedule=schedule)
            for step in range(1, 101)
        ]

    cosine = rates("cosine")
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[9] == pytest.approx(1.0)
    assert cosine[9:] == sorted(cosine[9:], reverse=True)
    assert 0 < cosine[-1] < 0.001
    assert rates("constant")[10:] == [1.0] * 90
    assert learning_rate(1, 1, peak=1.0, warmup_ratio=0.0, schedule="cosine") == 1.0


def test_counting_stops_beyond_the_limit() -> None:
    lengths = [10] * 10
    assert steps_in_epochs(lengths, 20, 0, 1e9, limit=7) == 10
    assert steps_in_epochs(lengths, 20, 0, 2.5, limit=100) == 13


def test_a_run_on_a_machine_that_became_slow_is_cut_to_its_budget() -> None:
    plan = Plan(100, 25, "time_budget", tokens_per_s=500.0, prepared_s=20.0)
    assert shortened(plan, 25, 20 + 25 * 1.0, 125, 3) is plan  # as measured
    assert shortened(plan, 26, 20 + 26 * 9.0, 125, 3) is plan  # not at a quarter
    late = shortened(plan, 25, 20 + 25 * 2.0, 125, 3)
    assert late.total_steps == 25 + 26
    assert late.eval_every == plan.eval_every
    assert shortened(plan, 75, 500.0, 125, 3).total_steps == 76
    assert shortened(plan, 100, 500.0, 125, 3) is plan


def test_a_short_budget_is_not_spent_on_evals() -> None:
    assert affordable_evals(400.0, 4.0) == 4
    assert affordable_evals(60.0, 4.0) == 2
    assert affordable_evals(10.0, 4.0) == 1
    costs = Costs(step_s=0.5, eval_s=4.0, save_s=0.2, finish_s=3.0)
    plan = make_plan(900, max_steps=None, eval_every=0, seconds_left=40, costs=costs)
    assert plan.total_steps * 0.5 > 26
    assert plan.eval_every == plan.total_steps


def test_steps_by_rows_hold_exactly_so_many_and_the_rest_last() -> None:
    steps = list(islice(step_rows([50] * 10, 1, seed=3, batch_rows=4), 6))
    assert [len(rows) for _, rows in steps] == [4, 4, 2, 4, 4, 2]
    assert sorted(row for epoch, rows in steps for row in rows if epoch == 0) == list(range(10))
    assert steps_in_epochs([50] * 10, 1, 3, 2, batch_rows=4) == 6


@pytest.mark.parametrize(
    "schedule",
    ["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr", "inverse_sqrt"],
)
def test_schedules_are_those_of_transformers(schedule: str) -> None:
    import torch
    from transformers import get_scheduler

    warm, total = (0, 20) if schedule == "constant" else (5, 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    extra = {"min_lr_rate": 0.2} if schedule == "cosine_with_min_lr" else None
    theirs = get_scheduler(schedule, optimizer, warm, total, scheduler_specific_kwargs=extra)
    for step in range(1, total + 1):
        rate = learning_rate(
            step,
            total,
            peak=0.1,
            warmup_ratio=0.0,
            schedule=schedule,
            warmup_steps=warm,
            min_ratio=0.2 if extra else 0.0,
        )
        # ours never wastes a step at rate zero: while warming up it is one step ahead
        wanted = theirs.get_last_lr()[0] + (0.1 / warm if step <= warm else 0.0)
        assert rate == pytest.approx(wanted, abs=1e-9), step
        optimizer.step()
        theirs.step()
