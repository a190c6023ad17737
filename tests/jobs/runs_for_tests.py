from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slipway.core.events import EventLog
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home

HOLD = """
import sys, time
from pathlib import Path
from slipway.core.owner import owned
with owned(Path(sys.argv[1]) / ".lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def make_run(home: Home, name: str, *, steps: int = 3, end: str = "", **spec: Any) -> Path:
    """A run folder as training leaves it: interrupted, or as `end` says."""
    folder = home.runs / name
    folder.mkdir(parents=True)
    values = {"model": "/m", "data": "/d", "learning_rate": 0.001, "lora": {"rank": 8}, **spec}
    settings = {"spec": values, "origins": {"learning_rate": "flag"}, "recipe": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    log = EventLog(folder / "events.jsonl")
    log.emit("state", state="started", step=0)
    log.emit("metric", kind="eval", step=0, loss=4.0)
    for step in range(1, steps + 1):
        add_step(log, step)
    if end == "finished":
        log.emit("metric", kind="eval", step=steps, loss=2.0)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text(name)
        metrics = {"eval_loss": 2.0, "base_eval_loss": 4.0, "steps": steps}
        write_manifest(folder, "run", name, files=["adapter/weights"], metrics=metrics)
    if end == "failed":
        log.emit("state", state="failed", code="disk.full", message="no space", hint="free some")
    elif end:
        log.emit("state", state=end, step=steps)
    time.sleep(0.002)  # events tell milliseconds: the next run is a newer one
    return folder


def add_step(log: EventLog, step: int) -> None:
    log.emit(
        "metric",
        kind="train",
        step=step,
        total_steps=10,
        epoch=0,
        loss=4.0 - step / 10,
        lr=1e-3,
        grad_norm=0.5,
        tokens=100 * step,
        tokens_per_s=50.0,
        eta_s=9.0,
        memory_bytes=10**9,
    )


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a run folder, as a trainer does."""
    folder.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()
