"""Several processes train as one would: the same steps, the same losses, one run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.core.errors import UsageError
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest
from slipway.training import TrainSpec, train
from slipway.training.launch import place, run_on_ray
from slipway.training.objectives import EvalResult, StepSums
from slipway.training.world import World, joined


def write_recipe(folder: Path, base: Path, data: Path, **values: Any) -> Path:
    recipe = {
        "model": str(base),
        "data": str(data),
        "lora": {"rank": 4, "alpha": 8.0},
        "batch_rows": 5,
        "learning_rate": 0.01,
        "max_steps": 6,
        "epochs": 50.0,
        "save_every_steps": 2,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def told(run_dir: Path, kind: str) -> list[float]:
    events = read_events(run_dir / "events.jsonl", "metric")
    return [event["loss"] for event in events if event["kind"] == kind]


def start(recipe: Path, run_dir: Path, processes: int, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "slipway", "train", str(recipe), "--run-dir", str(run_dir)]
    return subprocess.Popen([*command, "--processes", str(processes), *more])


@pytest.fixture(scope="module")
def alone(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    spec = TrainSpec(**yaml.safe_load(write_recipe(folder, base, data).read_text()))
    train(spec, run_dir=folder / "run", events=EventLog(None))
    return folder / "run"


def test_two_processes_take_the_steps_of_one(
    alone: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    assert start(write_recipe(tmp_path, base, data), run_dir, 2).wait(timeout=240) == 0
    assert told(run_dir, "train") == pytest.approx(told(alone, "train"), abs=1e-4)
    assert told(run_dir, "eval") == pytest.approx(told(alone, "eval"), abs=1e-4)
    one, two = read_manifest(alone), read_manifest(run_dir)
    assert one.metrics["tokens"] == two.metrics["tokens"]
    evals = [e for e in read_events(run_dir / "events.jsonl", "metric") if e["kind"] == "eval"]
    assert evals[-1]["rows"] == 6  # counted once, by both together
    states = [event["state"] for event in read_events(run_dir / "events.jsonl", "state")]
    assert states == ["started", "finished"]


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_to_the_losses_of_one(
    alone: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    recipe = write_recipe(tmp_path, base, data)
    group = start(recipe, run_dir, 2)
    deadline = time.monotonic() + 120
    while len(told(run_dir, "train")) < 2:
        assert time.monotonic() < deadline
        assert group.poll() is None
        time.sleep(0.02)
    group.send_signal(signal.SIGTERM)
    assert group.wait(timeout=60) != 0
    assert (run_dir / "checkpoints").is_dir()
    assert start(recipe, run_dir, 2).wait(timeout=240) == 0
    by_step = {
        event["step"]: event["loss"]
        for event in read_events(run_dir / "events.jsonl", "metric")
        if event["kind"] == "train"
    }
    assert list(by_step.values()) == pytest.approx(told(alone, "train"), abs=1e-4)


@pytest.mark.slow
def test_full_training_in_two_processes_has_the_losses_of_one(
    base: Path, data: Path, tmp_path: Path
) -> None:
    values = {"method": "full", "learning_rate": 0.003, "max_steps": 3}
    recipe = write_recipe(tmp_path, base, data, **values)
    keys = yaml.safe_load(recipe.read_text())
    del keys["lora"]  # of no effect with `full`, and so refused
    recipe.write_text(yaml.safe_dump(keys))
    spec = TrainSpec(**keys)
    train(spec, run_dir=tmp_path / "one", events=EventLog(None))
    assert start(recipe, tmp_path / "two", 2).wait(timeout=240) == 0
    assert told(tmp_path / "two", "train") == pytest.approx(
        told(tmp_path / "one", "train"), abs=1e-4
    )


@pytest.mark.slow
def test_more_processes_than_rows_of_a_step_is_no_fault(
    base: Path, data: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, base, data, batch_rows=1, max_steps=2)
    assert start(recipe, tmp_path / "run", 2).wait(timeout=240) == 0
    assert len(told(tmp_path / "run", "train")) == 2


def test_a_failing_process_ends_the_others_and_its_error_is_told(
    base: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, base, tmp_path / "nowhere")
    command = [sys.executable, "-m", "slipway", "train", str(recipe), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 5
    assert done.stderr.count("nowhere") >= 1


@pytest.mark.slow
def test_torchrun_starts_the_same_run(alone: Path, base: Path, data: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, base, data)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "slipway", "train", str(recipe), "--run-dir", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, timeout=240, check=True
    )
    assert json.loads(done.stdout)["metrics"]["steps"] == 6  # one document, from the chief
    assert told(tmp_path / "run", "train") == pytest.approx(told(alone, "train"), abs=1e-4)


def test_sums_and_evals_are_means_weighted_by_what_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(0, 2)
    other = EvalResult(2.0, {"rows": 3, "perplexity": 1.0, "accuracy": 1.0}, 30.0)
    mine = EvalResult(1.0, {"rows": 1, "perplexity": 1.0, "accuracy": 0.0}, 10.0)
    monkeypatch.setattr(world, "gather", lambda value: [value, other])
    both = world.combine_eval(mine)
    assert both is not None
    assert both.loss == pytest.approx(1.75)
    assert both.extra["rows"] == 4
    assert both.extra["accuracy"] == pytest.approx(0.75)
    assert both.extra["perplexity"] == pytest.approx(5.7546, abs=1e-3)


def test_one_process_is_a_world_of_its_own() -> None:
    world = World()
    sums = StepSums(1.0, 5)
    assert world.combine(sums, []) is sums
    assert world.part([1, 2, 3]) == [1, 2, 3]
    assert world.share("x") == "x"
    assert world.is_chief


def test_a_world_without_a_place_in_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"), joined():
        pass
    assert place(1, 2, 5)["RANK"] == "1"


@pytest.mark.slow
def test_a_ray_train_job_has_the_losses_of_one_process(
    alone: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs `pip install 'slipway[ray]'`; `make test-slow` does")
    recipe = write_recipe(tmp_path, base, data)
    words = ["train", str(recipe), "--run-dir", str(tmp_path / "run"), "--launcher", "ray"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run(
        [sys.executable, "-m", "slipway", *words, "--processes", "2", "--json"],
        check=True,
        timeout=400,
        env=environment,
    )
    assert told(tmp_path / "run", "train") == pytest.approx(told(alone, "train"), abs=1e-4)


def test_without_ray_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="ray") as caught:
        run_on_ray(lambda config: None, {"ray_dir": "x"}, 2)
    assert "slipway[ray]" in caught.value.hint_en
