"""Kill -9 in every stage, then run again: the demo ends, whole, and no artefact is corrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.shared_home import link_shared_folders

from slipway.core.events import read_events
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.paths import Home
from slipway.demo.serve_stages import stop_services

pytestmark = [pytest.mark.path, pytest.mark.slow]
STAGES = ["pull", "data", "train", "merge", "convert", "quantise", "eval", "create", "serve"]
STAGES += ["gateway", "chat"]
COMMAND = ["demo", "--base", "starter", "--quick", "--max-steps", "6", "--no-chat"]


def start(home: Home) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "slipway.cli", *COMMAND],
        env={**os.environ, "SLIPWAY_HOME": str(home.root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def wait_for_stage(folder: Path, stage: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        states = [(e["stage"], e["state"]) for e in read_events(folder / "events.jsonl", "state")
                  if "stage" in e]  # fmt: skip
        if (stage, "start") in states:
            return
        time.sleep(0.02)
    pytest.fail(f"the stage {stage} never started")


def test_demo_killed_in_every_stage_ends_with_whole_artefacts(tmp_path: Path) -> None:
    home = Home(tmp_path / "killed-home")
    link_shared_folders(home)
    folder = home.root / "demo" / "starter--support-en--quick"
    try:
        for stage in STAGES:
            process = start(home)
            wait_for_stage(folder, stage, process)
            time.sleep(0.4)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = start(home)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    finally:
        stop_services(home)
    report = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["tuned"]["eval_loss"] < report["base"]["eval_loss"]
    kinds = []
    for path in [*folder.rglob("manifest.json"), *home.artefacts.rglob("manifest.json")]:
        manifest = read_manifest(path.parent)
        assert verify_files(path.parent, manifest) == [], path
        kinds.append(manifest.kind)
    assert sorted(kinds) == [
        "dataset",
        "evaluation",
        *["gguf"] * 3,
        "merged",
        *["quant"] * 3,
        "run",
    ]
    assert not [p for p in folder.rglob("*.tmp")]
