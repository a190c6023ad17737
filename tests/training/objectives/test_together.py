"""Two processes train a preference stage as one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slipway.training import train

from .conftest import make_spec
from .tools import evals, quiet, told


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "method"), [("kto", "lora"), ("dpo", "full"), ("rm", "lora")])
def test_two_processes_take_the_steps_of_one(
    stage: str, method: str, base: Path, pairs: Path, answers: Path, tmp_path: Path
) -> None:
    """Steps of five units, so that one process has more than the other."""
    spec = make_spec(
        base,
        answers if stage == "kto" else pairs,
        stage=stage,
        method=method,
        batch_rows=5,
        max_steps=5,
        learning_rate=0.001,
    )
    train(spec, run_dir=tmp_path / "one", events=quiet())
    recipe = tmp_path / "recipe.yaml"
    given = spec.model_dump(exclude_defaults=True)
    if method == "full":
        given.pop("lora")
    recipe.write_text(yaml.safe_dump(given), encoding="utf-8")
    command = [sys.executable, "-m", "slipway", "train", str(recipe), "--processes", "2"]
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "two")], timeout=240, check=False)
    assert done.returncode == 0
    names = ("accuracy", "margin")
    one, two = told(tmp_path / "one", *names), told(tmp_path / "two", *names)
    assert one.keys() == two.keys()
    for step, values in one.items():
        assert two[step] == pytest.approx(values, abs=2e-3), step
    first, second = evals(tmp_path / "one")[-1], evals(tmp_path / "two")[-1]
    counted = "rows" if stage == "kto" else "pairs"
    assert first[counted] == second[counted]
    # the mismatched answers of a share of the held-out rows are others: z differs a little
    assert second["loss"] == pytest.approx(first["loss"], abs=5e-3 if stage == "kto" else 1e-4)
