"""Reward models measured on pairs; what is not offered for them is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.core.paths import Home
from slipway.evaluation.pairs import measured, wilson
from slipway.export import merge_run
from slipway.testing.tiny import tiny_model
from slipway.training import TrainSpec, train


def rows(numbers: range) -> str:
    lines = []
    for i in numbers:
        asked = {"prompt": f"can i return item {i}", "chosen": "yes, you can" + "." * (i % 3)}
        lines.append(json.dumps({**asked, "rejected": "no. keep it" + "!" * (i % 4)}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    base = tiny_model(folder / "tiny")
    data = folder / "pairs"
    data.mkdir()
    (data / "train.jsonl").write_text(rows(range(24)), encoding="utf-8")
    (data / "heldout.jsonl").write_text(rows(range(100, 110)), encoding="utf-8")
    spec = TrainSpec.model_validate(
        {
            "model": str(base),
            "data": str(data),
            "stage": "rm",
            "lora": {"rank": 4},
            "batch_rows": 6,
            "learning_rate": 0.01,
            "max_steps": 6,
            "epochs": 9,
            "threads": 1,
            "dtype": "fp32",
        }
    )
    train(spec, run_dir=folder / "run", events=EventLog(None))
    return folder / "run"


def test_eval_of_a_reward_model_gives_pair_accuracy_as_training_measured_it(
    judge: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["eval", str(judge), "-o", str(tmp_path / "out"), "--dtype", "fp32"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    told = json.loads((judge / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert found["pairs"] == 10 and found["metrics"]["pair_accuracy"]["value"] == 1.0
    assert found["metrics"]["loss"] == pytest.approx(told["eval_loss"], abs=1e-5)
    scores = (tmp_path / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(scores) == 10
    assert all(json.loads(s)["chosen"] > json.loads(s)["rejected"] for s in scores)
    assert main(line) == 0
    assert "pair_accuracy" in capsys.readouterr().out


def test_answers_are_not_asked_of_a_reward_model(
    judge: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(judge), "--min", "rouge_l=3"]) == 2
    assert "--least" not in capsys.readouterr().err
    assert main(["eval", str(judge), str(judge)]) == 2
    assert "reward model" in capsys.readouterr().err


def test_a_reward_model_is_not_merged(judge: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        merge_run(judge, tmp_path / "merged")
    assert caught.value.code == "merge.reward_model"


def test_metrics_of_scores_and_the_interval_of_a_share() -> None:
    found = measured([(2.0, 1.0), (0.0, 0.0), (1.0, 3.0), (5.0, 1.0)])
    assert found["pair_accuracy"]["value"] == 0.5 and found["ties"] == 1
    assert found["margin"] == pytest.approx((1 + 0 - 2 + 4) / 4)
    assert found["loss"] == pytest.approx((0.313262 + 0.693147 + 2.126928 + 0.018150) / 4, abs=1e-5)
    # Wilson's interval of 8 of 10, by his formula
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
