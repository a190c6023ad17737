"""Pairs are counted as pairs, and what the reference is asked is counted too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.training.estimate.work import plan_work
from slipway.training.objectives.units import rows_of, unit_lengths

from .conftest import make_spec


def test_the_rows_of_pairs() -> None:
    assert unit_lengths("dpo", [3, 4, 5, 6]) == [7, 11]
    assert unit_lengths("sft", [3, 4]) == [3, 4]
    assert rows_of("dpo", [2, 0]) == [4, 5, 0, 1]
    assert rows_of("kto", [2, 0]) == [2, 0]


def test_the_work_of_a_dpo_run_counts_both_answers_and_the_reference() -> None:
    lengths = [10] * 40  # twenty pairs
    spec = make_spec(Path("m"), Path("d"), stage="dpo", batch_rows=5, max_steps=None, epochs=3)
    work = plan_work(spec, lengths, [10] * 8)
    assert (work.steps, work.step_tokens, work.eval_tokens) == (12, 100, 80)
    assert work.forward_tokens == 400 + 80  # each row once, whatever the epochs
    assert len(work.probe) % 2 == 0 and work.probe[1] == work.probe[0] + 1
    short = plan_work(spec.model_copy(update={"max_steps": 2}), lengths, [])
    assert short.forward_tokens == 200


@pytest.mark.parametrize("loss", ["orpo", "simpo"])
def test_a_loss_without_a_reference_asks_none(loss: str) -> None:
    spec = make_spec(Path("m"), Path("d"), stage="dpo", preference={"loss": loss})
    assert plan_work(spec, [10] * 40, [10] * 8).forward_tokens == 0


def test_a_dry_run_shows_pairs(
    base: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "dpo.yaml"
    recipe.write_text(
        f"model: {base}\ndata: {pairs}\nstage: dpo\nmax_steps: 4\nbatch_rows: 5\nthreads: 1\n"
        "dtype: fp32\nlora: {rank: 4}\n"
    )
    assert main(["train", str(recipe), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["data"]["kind"], found["data"]["pairs"], found["data"]["documents"]) == (
        "preference",
        20,
        40,
    )
    assert found["estimate"]["seconds"]["reference"] > 0
    assert main(["train", str(recipe), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "pairs: 20, each of a chosen and a rejected answer" in shown
    assert "pair 1, chosen" in shown and "pair 2, rejected" in shown
    assert "⟦yes, you can return the cup" in shown and "⟦no. keep the cup" in shown
