"""DPO on the real starter model: two cores, some minutes."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from tests.shared_home import link_shared_folders

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.training import TrainSpec, train

from .conftest import write
from .tools import evals, quiet, told

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[3] / "examples" / "support-en"


CURT = ("No idea.", "That is not our problem.", "Look it up yourself.", "Ask somebody else.")


def short_pairs(count: int) -> list[dict[str, str]]:
    """A shop's friendly answer is chosen; a curt one is rejected."""
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    talks = [[turn["content"] for turn in json.loads(line)["messages"][-2:]] for line in lines]
    short = [talk for talk in talks if sum(map(len, talk)) < 220][:count]
    return [
        {"prompt": asked, "chosen": friendly, "rejected": CURT[number % len(CURT)]}
        for number, (asked, friendly) in enumerate(short)
    ]


def test_dpo_on_the_starter_lowers_the_loss_and_raises_the_accuracy(
    home: Home, tmp_path: Path
) -> None:
    link_shared_folders(home)
    assert main(["pull", "starter"]) == 0
    rows = short_pairs(39)
    write(tmp_path / "pairs", "train", rows[:32])
    write(tmp_path / "pairs", "heldout", rows[32:])
    spec = TrainSpec.model_validate(
        {
            "model": str(home.bases / "starter"),
            "data": str(tmp_path / "pairs"),
            "stage": "dpo",
            "lora": {"rank": 8, "alpha": 32.0},
            "batch_rows": 4,
            "learning_rate": 1e-4,
            "warmup_ratio": 0.0,
            "max_steps": 6,
            "eval_every": 6,
        }
    )
    train(spec, run_dir=tmp_path / "run", events=quiet())
    first, last = evals(tmp_path / "run")
    assert first["loss"] == pytest.approx(0.693147, abs=0.02)
    assert last["loss"] < first["loss"] - 0.08
    assert last["accuracy"] > 0.8
    assert last["margin"] > 0.1
    losses = [loss for (loss,) in told(tmp_path / "run").values()]
    assert fmean(losses[-3:]) < fmean(losses[:3]) - 0.03
