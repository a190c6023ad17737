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


def pairs_of(name: str, count: int) -> list[dict[str, str]]:
    """A shop's answer is chosen; the answer to another customer is rejected."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    talks = [[turn["content"] for turn in json.loads(line)["messages"][-2:]] for line in lines]
    others = talks[7:] + talks[:7]
    return [
        {"prompt": asked, "chosen": answer, "rejected": other[1]}
        for (asked, answer), other in zip(talks, others, strict=True)
    ]


def test_dpo_on_the_starter_lowers_the_loss_and_raises_the_accuracy(
    home: Home, tmp_path: Path
) -> None:
    link_shared_folders(home)
    assert main(["pull", "starter"]) == 0
    write(tmp_path / "pairs", "train", pairs_of("train", 72))
    write(tmp_path / "pairs", "heldout", pairs_of("heldout", 16))
    spec = TrainSpec.model_validate(
        {
            "model": str(home.bases / "starter"),
            "data": str(tmp_path / "pairs"),
            "stage": "dpo",
            "lora": {"rank": 8, "alpha": 32.0},
            "batch_rows": 4,
            "learning_rate": 5e-5,
            "epochs": 1.0,
            "cutoff_len": 256,
            "max_steps": 18,
            "eval_every": 18,
        }
    )
    train(spec, run_dir=tmp_path / "run", events=quiet())
    first, *_, last = evals(tmp_path / "run")
    assert first["loss"] == pytest.approx(0.693147, abs=0.02)
    assert last["loss"] < first["loss"] - 0.1
    assert last["accuracy"] > max(0.75, first["accuracy"])
    assert last["margin"] > 0.2
    losses = [loss for (loss,) in told(tmp_path / "run").values()]
    assert fmean(losses[-4:]) < fmean(losses[:4]) - 0.1
