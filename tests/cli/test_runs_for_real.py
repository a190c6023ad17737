"""Stopping, resuming and queueing as a user types it, with real training of a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import write_rows

from slipway.cli.main import main
from slipway.core.errors import EXIT_USAGE
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.jobs import Queue, QueueItem, Runs
from slipway.testing.tiny import tiny_model
from slipway.training import load_recipe, train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_model(folder / "tiny")
    write_rows(folder / "shop" / "train.jsonl", range(24))
    write_rows(folder / "shop" / "heldout.jsonl", range(100, 106))
    (folder / "shop.yaml").write_text(
        f"model: {folder}/tiny\ndata: {folder}/shop\nlabel: shop\nepochs: 5000\nmax_steps: 30\n"
        "learning_rate: 0.002\nbatch_tokens: 256\nthreads: 1\ndtype: fp32\nlora: {rank: 4}\n"
        "save_every_steps: 10\ntags: [night]\n"
    )
    return folder


def wait_until(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def steps(folder: Path) -> list[int]:
    events = read_events(folder / "events.jsonl", "metric")
    return [event["step"] for event in events if event["kind"] == "train"]


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_train_registers_its_run_wherever_its_folder_is(
    place: Path, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "shop.yaml")
    there = tmp_path / "elsewhere"
    assert main(["train", recipe, "max_steps=2", "--run-dir", str(there), "--json"]) == 0
    assert printed(capsys)["metrics"]["steps"] == 2
    assert main(["runs", "ls", "--json"]) == 0
    (run,) = printed(capsys)["runs"]
    assert (run["folder"], run["state"], run["tags"]) == (str(there), "finished", ["night"])
    assert main(["runs", "show", "elsewhere", "--json"]) == 0
    shown = printed(capsys)
    assert shown["settings"]["max_steps"] == {"value": 2, "origin": "flag"}
    assert shown["settings"]["seed"]["origin"] == "default"
    assert Path(shown["curve"]).is_file()
    assert set(shown["lineage"]) == {"base", "dataset"}


def test_resume_takes_only_values_that_do_not_change_the_result(
    place: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 12:
            raise KeyboardInterrupt

    resolved = load_recipe(place / "shop.yaml", ["max_steps=15"])
    with pytest.raises(KeyboardInterrupt):
        train(resolved, run_dir=home.runs / "shop", events=EventLog(None, stop))
    assert main(["runs", "resume", "shop", "learning_rate=0.1"]) == EXIT_USAGE
    assert "pack_tokens" in capsys.readouterr().err
    assert main(["runs", "resume", "shop", "pack_tokens=128", "--json"]) == 0
    assert printed(capsys)["resumed_from"] == 12
    assert main(["runs", "show", "shop", "--json"]) == 0
    assert printed(capsys)["settings"]["pack_tokens"] == {"value": 128, "origin": "flag"}
    assert main(["runs", "resume", "shop"]) == 1
    assert "finished" in capsys.readouterr().err


@pytest.mark.slow
def test_stop_resume_and_keep_from_another_terminal(
    place: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "shop.yaml")
    train = [sys.executable, "-m", "slipway.cli", "train", recipe, "max_steps=100000"]
    first = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: any(len(steps(p)) > 5 for p in home.runs.glob("*")))
        (folder,) = home.runs.glob("shop-*")
        assert main(["runs", "ls", "--json"]) == 0
        (run,) = printed(capsys)["runs"]
        assert (run["state"], run["pid"]) == ("running", first.pid)
        assert main(["runs", "stop", "shop", "--json"]) == 0
        assert printed(capsys)["runs"][0] == {
            "name": folder.name,
            "stopped": True,
            "state": "stopped",
        }
        assert first.wait(10) == 130
    finally:
        first.kill()
        first.wait()
    reached = steps(folder)[-1]
    resume = [sys.executable, "-m", "slipway.cli", "runs", "resume", "shop"]
    second = subprocess.Popen(resume, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: steps(folder)[-1] > reached + 5)
        assert main(["runs", "stop", "shop", "--keep", "--json"]) == 0
        assert printed(capsys)["runs"][0]["state"] == "finished"
        assert second.wait(20) == 0
    finally:
        second.kill()
        second.wait()
    manifest = read_manifest(folder, kind="run")
    assert manifest.metrics["steps"] == steps(folder)[-1] > reached
    assert steps(folder) == list(range(1, steps(folder)[-1] + 1))
    assert main(["merge", folder.name, "--json"]) == 0


@pytest.mark.slow
def test_a_queue_outlives_kills_of_its_worker_and_its_trainer(
    place: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(place / "shop.yaml")
    for overrides in (["max_steps=1500"], ["learning_rate=0.001"], ["seed=9"]):
        assert main(["train", recipe, *overrides, "--queue", "--json"]) == 0
    capsys.readouterr()
    with Runs(home) as runs:
        first, _, last = Queue(runs).items(ended=False)
        worker = Queue(runs).worker()
    assert worker is not None
    wait_until(lambda: len(steps(first.folder)) > 15)
    assert worker != os.getpid()
    os.kill(worker, signal.SIGKILL)
    with Runs(home) as runs:
        trainer = runs.find(first.run_id).pid
    assert trainer not in (None, worker, os.getpid())
    os.kill(trainer, signal.SIGKILL)
    wait_until(lambda: state_of(home, first.run_id) == "interrupted")
    assert main(["runs", "queue", "start"]) == 0
    wait_until(lambda: len(set(steps(first.folder))) > 40)
    assert main(["runs", "stop", first.run_id]) == 0
    wait_until(lambda: state_of(home, last.run_id) == "finished")

    def items_now() -> list[QueueItem]:
        with Runs(home) as runs:
            return Queue(runs).items()

    # the worker writes the end down a moment after the run has ended
    wait_until(lambda: items_now()[-1].state != "running")
    items = items_now()
    assert [item.state for item in items] == ["stopped", "done", "done"]
    assert items[0].attempts == 2


def state_of(home: Home, run_id: str) -> str:
    with Runs(home) as runs:
        return runs.find(run_id).state
