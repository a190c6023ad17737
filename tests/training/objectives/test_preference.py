"""Stage dpo: gradients, packs, the reference, resume, and whole runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import ConflictError, InputError, ProofError
from slipway.core.events import read_events
from slipway.core.manifest import read_manifest
from slipway.training import train
from slipway.training.model import load_base

from .conftest import make_spec
from .tools import (
    CPU,
    gradient,
    moved,
    objective_of,
    plain_logps,
    quiet,
    stop_after,
    told,
)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_gradient_is_autograds_over_unpacked_rows(method: str, base: Path, pairs: Path) -> None:
    spec = make_spec(base, pairs, stage="dpo", method=method)
    objective, tuned, rows = objective_of(spec)
    objective.prepare(range(20))
    moved(tuned)
    numbers = [3, 0, 7, 11]
    sums = objective.gradients(numbers, lambda: None)
    ours = gradient(tuned)

    first = load_base(base, torch.float32, CPU)
    model = tuned.model
    for one in (first, model):
        one.set_attn_implementation("eager")
    loss = torch.zeros(())
    for i in numbers:
        good, bad = rows[2 * i], rows[2 * i + 1]
        with torch.no_grad():
            known = (
                plain_logps(first, good.input_ids, good.labels),
                plain_logps(first, bad.input_ids, bad.labels),
            )
        d = (plain_logps(model, good.input_ids, good.labels) - known[0]) - (
            plain_logps(model, bad.input_ids, bad.labels) - known[1]
        )
        loss = loss - torch.nn.functional.logsigmoid(0.1 * d) / len(numbers)
    loss.backward()
    theirs = gradient(tuned)
    assert sums.loss == pytest.approx(float(loss.detach()), abs=2e-5)
    assert torch.allclose(ours, theirs, atol=2e-5 * float(theirs.abs().max()) + 1e-7, rtol=1e-3)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "orpo"])
def test_loss_and_gradient_do_not_depend_on_how_pairs_fall_into_packs(
    loss: str, base: Path, pairs: Path
) -> None:
    found = []
    for pack_tokens in (1, 256, 4096):
        spec = make_spec(
            base, pairs, stage="dpo", pack_tokens=pack_tokens, preference={"loss": loss, "ftx": 0.3}
        )
        objective, tuned, _ = objective_of(spec)
        moved(tuned)
        sums = objective.gradients([1, 4, 9, 2, 15], lambda: None)
        found.append((sums, gradient(tuned), objective.evaluate(lambda: None)))
    for sums, slopes, evaluated in found[1:]:
        assert sums.loss == pytest.approx(found[0][0].loss, abs=1e-5)
        assert sums.extra == pytest.approx(found[0][0].extra, abs=1e-4)
        assert torch.allclose(slopes, found[0][1], atol=1e-5, rtol=1e-3)
        assert evaluated is not None and found[0][2] is not None
        assert evaluated.loss == pytest.approx(found[0][2].loss, abs=1e-5)


def test_the_reference_is_asked_once_for_each_row(
    base: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.training.objectives.reference import Reference

    asked: list[int] = []
    fill = Reference.fill_from

    def counted(self: Reference, model: Any, numbers: list[int], stop: Any) -> None:
        asked.extend(numbers)
        fill(self, model, numbers, stop)

    monkeypatch.setattr(Reference, "fill_from", counted)
    objective, _, _ = objective_of(make_spec(base, pairs, stage="dpo"))
    for _ in range(2):
        objective.gradients([1, 2], lambda: None)
        objective.gradients([2, 3], lambda: None)
    assert sorted(asked) == [2, 3, 4, 5, 6, 7]


def test_a_full_model_that_lost_its_reference_is_refused(base: Path, pairs: Path) -> None:
    objective, tuned, _ = objective_of(make_spec(base, pairs, stage="dpo", method="full"))
    objective.prepare([0, 1])
    moved(tuned)
    objective.gradients([0, 1], lambda: None)
    with pytest.raises(ConflictError) as caught:
        objective.gradients([2], lambda: None)
    assert caught.value.code == "run.reference_lost"


@pytest.mark.parametrize(
    ("loss", "method"),
    [("sigmoid", "lora"), ("sigmoid", "full"), ("orpo", "lora"), ("simpo", "full")],
)
def test_a_run_learns_to_prefer_the_chosen_answers(
    method: str, loss: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    rate = 0.01 if method == "lora" else 0.001
    spec = make_spec(
        base, pairs, stage="dpo", method=method, preference={"loss": loss}, learning_rate=rate
    )
    result = train(spec, run_dir=tmp_path / "run", events=quiet())
    events = list(read_events(tmp_path / "run" / "events.jsonl", "metric"))
    evals = [event for event in events if event["kind"] == "eval"]
    assert evals[-1]["loss"] < 0.95 * evals[0]["loss"]
    assert evals[-1]["margin"] > evals[0]["margin"]
    assert evals[-1]["accuracy"] >= evals[0]["accuracy"]
    assert evals[-1]["pairs"] == 6
    assert result.metrics["eval_loss"] == pytest.approx(evals[-1]["loss"], abs=1e-5)
    assert read_manifest(tmp_path / "run").notes["artefact"] == (
        "adapter" if method == "lora" else "model"
    )
    assert not (tmp_path / "run" / "reference").exists()
    if loss == "sigmoid":
        assert evals[0]["loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_run_goes_on_with_the_losses_of_an_unstopped_one(
    method: str, base: Path, pairs: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, pairs, stage="dpo", method=method, learning_rate=0.001)
    train(spec, run_dir=tmp_path / "whole", events=quiet())
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(4)))
    kept = list((tmp_path / "cut" / "reference").rglob("*.f64"))
    assert len(kept) == 2
    result = train(spec, run_dir=tmp_path / "cut", events=quiet())
    assert 0 < result.resumed_from < 8
    assert told(tmp_path / "cut", "margin") == told(tmp_path / "whole", "margin")


def test_a_full_run_whose_reference_file_was_removed_computes_it_again(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, pairs, stage="dpo", method="full", learning_rate=0.001)
    train(spec, run_dir=tmp_path / "whole", events=quiet())
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(4)))
    shutil.rmtree(tmp_path / "cut" / "reference")
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    ours, theirs = told(tmp_path / "cut"), told(tmp_path / "whole")
    assert [ours[step][0] for step in ours] == pytest.approx([theirs[s][0] for s in ours], abs=1e-4)


def test_another_model_or_a_run_may_be_the_reference(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    from slipway.testing.tiny import tiny_model

    train(make_spec(base, pairs, stage="dpo"), run_dir=tmp_path / "first", events=quiet())
    losses = {}
    other = tiny_model(tmp_path / "other", seed=5)
    for name, path in (("none", None), ("run", tmp_path / "first"), ("model", other)):
        place = str(path) if path else None
        spec = make_spec(base, pairs, stage="dpo", max_steps=2, preference={"ref_model": place})
        result = train(spec, run_dir=tmp_path / name, events=quiet())
        losses[name] = result.metrics["base_eval_loss"]
    assert losses["none"] == pytest.approx(0.693147, abs=1e-5)
    # the tuned reference prefers the chosen answers, so the base is behind it
    assert losses["run"] > 0.75
    assert abs(losses["model"] - 0.693147) > 1e-3


def test_a_reference_that_reads_other_tokens_is_refused(
    base: Path, pairs: Path, tmp_path: Path
) -> None:
    import json

    other = shutil.copytree(base, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["ba"], vocab["be"] = vocab["be"], vocab["ba"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    spec = make_spec(base, pairs, stage="dpo", preference={"ref_model": str(other)})
    with pytest.raises(InputError) as caught:
        train(spec, run_dir=tmp_path / "run", events=quiet())
    assert caught.value.code == "train.other_tokens"


def test_rows_that_are_no_pairs_are_refused(base: Path, data: Path, tmp_path: Path) -> None:
    spec = make_spec(base, data, stage="dpo")
    with pytest.raises(InputError) as caught:
        train(spec, run_dir=tmp_path / "run", events=quiet())
    assert caught.value.code == "data.kind"


def test_a_time_budget_counts_the_reference(base: Path, pairs: Path, tmp_path: Path) -> None:
    spec = make_spec(
        base, pairs, stage="dpo", method="full", max_steps=None, epochs=3, time_budget_s=30.0
    )
    try:
        result = train(spec, run_dir=tmp_path / "run", events=quiet())
    except ProofError:
        pytest.fail("the loss must stay finite")
    assert result.metrics["steps"] == 12  # all of three epochs: 20 pairs, six a step
