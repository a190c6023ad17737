"""Kill -9 between and inside the stages, then again: the ship ends, whole, with nothing torn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.core.events import read_events
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.paths import Home
from slipway.store import list_models, verify_model

pytestmark = pytest.mark.slow
COMMAND = ["ship", "shop", "--as", "shop:v1", "-t", "Q4_K_M,Q8_0"]
STAGES = ["merge", "convert", "quantise", "measure", "create"]


def start(home: Home) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "slipway.cli", *COMMAND],
        env={**os.environ, "SLIPWAY_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def states(home: Home) -> list[tuple[str, str]]:
    files = list((home.root / "ship").glob("*/events.jsonl"))
    return [(e["stage"], e["state"]) for f in files for e in read_events(f, "state")]


def wait_for(stage: str, home: Home, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if (stage, "start") in states(home):
            return
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.01)
    pytest.fail(f"the stage {stage} never started")


@pytest.mark.parametrize("later_s", [0.0, 0.5])
def test_a_ship_killed_in_every_stage_ends_whole(run: Path, home: Home, later_s: float) -> None:
    for stage in STAGES:
        process = start(home)
        wait_for(stage, home, process)
        time.sleep(later_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for model in list_models(home):  # a name is whole or not there
            assert verify_model(model.name.display, home=home) == []
    done = sum(state == "done" for _, state in states(home))
    process = start(home)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert done >= len(STAGES) - 1  # whole stages were not thrown away
    names = {model.name.display for model in list_models(home)}
    assert names == {"shop:v1", "shop:v1-q4_k_m", "shop:v1-q8_0"}
    assert all(verify_model(name, home=home) == [] for name in names)
    kinds = []
    for path in home.artefacts.rglob("manifest.json"):
        manifest = read_manifest(path.parent)
        assert verify_files(path.parent, manifest) == [], path
        kinds.append(manifest.kind)
    assert sorted(kinds) == ["evaluation", "gguf", "merged", "quant", "quant"]
    assert not [p for p in home.artefacts.iterdir() if p.name.startswith(".")]


def test_a_killed_ship_leaves_no_process_behind(run: Path, home: Home) -> None:
    process = start(home)
    wait_for("merge", home, process)
    time.sleep(1.0)
    children = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
