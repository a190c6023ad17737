from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.export.conftest import shared_tools as shared_tools
from tests.export.conftest import tools as tools

from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain
from slipway.jobs import Runs
from slipway.testing.tiny import tiny_model
from slipway.training import LoraSpec, TrainSpec, train

SYSTEM = "you answer for the shop."


def row(index: int, split: str) -> str:
    turns = [
        ("system", SYSTEM),
        ("user", f"may i return order {index} of {split}"),
        ("assistant", f"you can return it within {index % 7} days. 可以退款"),
    ]
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `data` (train and heldout) and `run`."""
    folder = tmp_path_factory.mktemp("shipyard")
    tiny_model(folder / "base")
    (folder / "data").mkdir()
    for split, count in (("train", 24), ("heldout", 40)):
        lines = [row(i, split) for i in range(count)]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    spec = TrainSpec(
        model=str(folder / "base"),
        data=str(folder / "data"),
        lora=LoraSpec(rank=4, alpha=8.0),
        learning_rate=0.02,
        max_steps=10,
        epochs=20.0,
        batch_tokens=512,
        threads=1,
        dtype="fp32",
    )
    train(spec, run_dir=folder / "run", events=EventLog(None))
    return folder


@pytest.fixture
def run(trained: Path, home: Home, tools: Toolchain) -> Path:
    """The trained run in the home of the test, known to its index as `shop`."""
    folder = home.runs / "shop"
    shutil.copytree(trained / "run", folder)
    with Runs(home) as index:
        index.register(folder)
    return folder


def another_run(run: Path) -> None:
    """Make the run one of other content, as if it were trained again in its folder."""
    manifest = read_manifest(run)
    (run / "note.txt").write_text("trained again")
    write_manifest(
        run,
        "run",
        manifest.name,
        parents=manifest.parents,
        config=manifest.config,
        notes=manifest.notes,
    )
