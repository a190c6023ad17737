"""Stage kto: the paper's formula, gradients, packs, processes, resume, and whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slipway.training import train
from slipway.training.model import load_base
from slipway.training.objectives import Setting
from slipway.training.objectives.feedback import Mismatched

from .conftest import answer, make_spec, write
from .tools import (
    CPU,
    evals,
    gradient,
    moved,
    objective_of,
    plain_logps,
    quiet,
    stop_after,
    told,
)

KTO = {"stage": "kto", "kto": {"beta": 0.5, "chosen_weight": 1.5, "rejected_weight": 0.7}}
NUMBERS = [3, 0, 7, 10, 12]  # bad, good, bad, good, good


def test_a_mismatched_answer_is_the_next_rows_under_this_rows_prompt(
    base: Path, answers: Path
) -> None:
    _, _, rows = objective_of(make_spec(base, answers, **KTO))
    mixed = Mismatched(rows)
    longest = max(len(row.input_ids) for row in rows)
    for i in (0, 5, len(rows) - 1):
        row, other = rows[i], rows[(i + 1) % len(rows)]
        ends = [next(at for at, x in enumerate(r.labels) if x != -100) for r in (row, other)]
        both = row.input_ids[: ends[0]] + other.input_ids[ends[1] :]
        assert mixed[i].input_ids == both[:longest]
        learned = [-100] * ends[0] + other.labels[ends[1] :]
        assert mixed[i].labels == learned[:longest]
        assert any(label != -100 for label in mixed[i].labels)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_and_gradient_are_the_papers_by_autograd_over_unpacked_rows(
    method: str, base: Path, answers: Path
) -> None:
    spec = make_spec(base, answers, method=method, preference={"ftx": 0.2}, **KTO)
    objective, tuned, rows = objective_of(spec)
    objective.prepare(range(len(rows)))
    moved(tuned)
    sums = objective.gradients(NUMBERS, lambda: None)
    ours = gradient(tuned)

    first, model = load_base(base, torch.float32, CPU), tuned.model
    for one in (first, model):
        one.set_attn_implementation("eager")
    mixed = Mismatched(rows)

    def above(i: int, some: object) -> torch.Tensor:
        row = some[i]  # type: ignore[index]
        with torch.no_grad():
            known = plain_logps(first, row.input_ids, row.labels)
        return plain_logps(model, row.input_ids, row.labels) - known

    with torch.no_grad():
        z = torch.stack([above(i, mixed) for i in NUMBERS]).mean().clamp_min(0)
    loss = torch.zeros(())
    for i in NUMBERS:
        u = above(i, rows)
        if i % 2 == 0:
            own = plain_logps(model, rows[i].input_ids, rows[i].labels) / rows[i].learned
            loss = loss + 1.5 * (1 - torch.sigmoid(0.5 * (u - z))) / 5 - 0.2 * own / 3
        else:
            loss = loss + 0.7 * (1 - torch.sigmoid(0.5 * (z - u))) / 5
    loss.backward()
    theirs = gradient(tuned)
    assert sums.loss == pytest.approx(float(loss.detach()), abs=2e-5)
    assert sums.extra["kl"] == pytest.approx(float(z), abs=1e-4)
    assert torch.allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()) + 1e-7, rtol=1e-3)


def test_loss_and_gradient_do_not_depend_on_how_answers_fall_into_packs(
    base: Path, answers: Path
) -> None:
    found = []
    for pack_tokens in (1, 4096):
        objective, tuned, _ = objective_of(make_spec(base, answers, pack_tokens=pack_tokens, **KTO))
        moved(tuned)
        sums = objective.gradients(NUMBERS, lambda: None)
        found.append((sums, gradient(tuned), objective.evaluate(lambda: None)))
    one, other = found
    assert one[0].loss == pytest.approx(other[0].loss, abs=1e-5)
    assert one[0].extra == pytest.approx(other[0].extra, abs=1e-4)
    assert torch.allclose(one[1], other[1], atol=1e-5, rtol=1e-3)
    assert one[2] is not None and other[2] is not None
    assert one[2].loss == pytest.approx(other[2].loss, abs=1e-5)


def test_two_processes_share_one_drift_and_take_the_step_of_one(base: Path, answers: Path) -> None:
    """Two objectives in two threads, whose sums are added up as processes would."""
    import threading

    spec = make_spec(base, answers, preference={"ftx": 0.2}, **KTO)
    objective, tuned, _ = objective_of(spec)
    moved(tuned)
    whole = objective.gradients(NUMBERS, lambda: None)
    slopes = gradient(tuned)
    barrier, boxes = threading.Barrier(2, timeout=60), [[0.0], [0.0]]

    def adding(rank: int):  # type: ignore[no-untyped-def]
        def add(*values: float) -> list[float]:
            boxes[rank] = list(values)
            barrier.wait()
            total = [a + b for a, b in zip(*boxes, strict=True)]
            barrier.wait()
            return total

        return add

    results = {}
    made = [objective_of(spec, Setting(sum=adding(rank))) for rank in range(2)]
    for _, one, _ in made:
        moved(one)

    def work(rank: int) -> None:
        sums = made[rank][0].gradients(NUMBERS[rank::2], lambda: None)
        results[rank] = sums, gradient(made[rank][1])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (left, a), (right, b) = results[0], results[1]
    assert (left.weight, right.weight) == (3.0, 2.0)
    assert (3 * left.loss + 2 * right.loss) / 5 == pytest.approx(whole.loss, abs=1e-5)
    assert left.extra == pytest.approx(whole.extra, abs=1e-4)
    assert right.extra == pytest.approx(whole.extra, abs=1e-4)
    assert torch.allclose((3 * a + 2 * b) / 5, slopes, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_learns_and_resumes_exactly(
    method: str, base: Path, answers: Path, tmp_path: Path
) -> None:
    rate = 0.01 if method == "lora" else 0.001
    spec = make_spec(base, answers, method=method, learning_rate=rate, stage="kto")
    train(spec, run_dir=tmp_path / "whole", events=quiet())
    first, *_, last = evals(tmp_path / "whole")
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)
    assert first["kl"] == pytest.approx(0.0, abs=1e-4)
    assert last["loss"] < 0.95 * first["loss"]
    assert last["margin"] > 0.1 and last["accuracy"] > first["accuracy"]
    assert last["rows"] == 8
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(4)))
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    names = ("kl", "accuracy")
    assert told(tmp_path / "cut", *names) == told(tmp_path / "whole", *names)
    assert not (tmp_path / "cut" / "reference").exists()


def test_answers_of_one_kind_only_are_learned_too(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "good", "train", [answer(2 * i) for i in range(8)])
    spec = make_spec(base, tmp_path / "good", stage="kto", max_steps=2)
    result = train(spec, run_dir=tmp_path / "run", events=quiet())
    assert result.metrics["train_loss"] is not None
