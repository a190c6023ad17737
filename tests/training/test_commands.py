"""`slipway train` and `slipway merge` as a user types them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from slipway.cli.main import main
from slipway.core.errors import EXIT_INTERRUPTED, EXIT_NOT_FOUND, EXIT_USAGE
from slipway.core.paths import Home
from slipway.training.objectives import StepSums
from slipway.training.objectives.next_token import NextToken


@pytest.fixture
def recipe(base: Path, data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"model: {base}\ndata: {data}\nlabel: 客服 shop\nmax_steps: 6\nepochs: 20\n"
        "learning_rate: 0.01\nbatch_tokens: 256\nthreads: 1\ndtype: fp32\nlora: {rank: 4}\n"
    )
    return path


def test_train_then_merge_by_name_as_json(
    recipe: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "seed=3", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert Path(run["run"]).parent == home.runs
    assert Path(run["run"]).name.startswith("shop-")
    assert run["metrics"]["steps"] == 6
    assert main(["merge", Path(run["run"]).name, "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)
    assert Path(merged["path"]).parent == home.artefacts
    assert merged["metrics"]["changed_tensors"] == 14


def test_the_result_for_people_names_the_next_command(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(["train", str(recipe), "--run-dir", str(run_dir)]) == 0
    captured = capsys.readouterr()
    assert "eval loss" in captured.out
    assert f"slipway merge {run_dir}" in captured.out
    assert "plan: 6 steps" in captured.err
    assert main(["train", str(recipe), "--run-dir", str(run_dir)]) == 0
    assert "finished before" in capsys.readouterr().err
    assert main(["merge", str(run_dir), "-o", str(tmp_path / "merged")]) == 0
    assert "slipway convert" in capsys.readouterr().out


def test_errors_have_their_exit_codes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "lora.rnk=3"]) == EXIT_USAGE
    assert "lora.rank" in capsys.readouterr().err
    assert main(["train", str(recipe.with_name("none.yaml"))]) == EXIT_NOT_FOUND
    assert main(["merge", "nothing"]) == EXIT_NOT_FOUND
    assert "slipway train" in capsys.readouterr().err


def test_ctrl_c_exits_130_and_the_same_command_goes_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = NextToken.gradients
    calls: list[int] = []

    def interrupted(self: NextToken, numbers: Any, stop: Any) -> StepSums:
        calls.append(len(calls))
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, numbers, stop)

    with monkeypatch.context() as patch:
        patch.setattr(NextToken, "gradients", interrupted)
        assert main(["train", str(recipe)]) == EXIT_INTERRUPTED
    assert "goes on from here" in capsys.readouterr().err
    assert main(["train", str(recipe), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["resumed_from"] == 3
    assert "going on from step 3" in captured.err
