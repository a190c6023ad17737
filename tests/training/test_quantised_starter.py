"""QLoRA for real: the starter in 4 bits learns, in less memory than in fp32."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.shared_home import link_shared_folders

from slipway.cli.main import main
from slipway.core.manifest import Manifest, read_manifest
from slipway.core.paths import Home

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2] / "examples" / "support-en"
SETTINGS = (
    "max_steps=6",
    "learning_rate=0.002",
    "batch_tokens=256",
    "pack_tokens=256",
    "cutoff_len=192",
    "lora.rank=8",
    "dtype=fp32",
    "threads=1",
)


def trained(home: Home, data: Path, name: str, *settings: str) -> Manifest:
    """A run in a process of its own, so that its peak of memory is its own."""
    run_dir = home.runs / name
    recipe = data / "recipe.yaml"
    recipe.write_text(f"model: {home.bases / 'starter'}\ndata: {data}\n")
    command = [sys.executable, "-m", "slipway.cli", "train", str(recipe), *SETTINGS, *settings]
    command += ["--run-dir", str(run_dir)]
    subprocess.run(command, check=True, env={**os.environ, "SLIPWAY_HOME": str(home.root)})
    return read_manifest(run_dir, kind="run")


def test_the_starter_learns_in_4_bits_with_less_memory(home: Home, tmp_path: Path) -> None:
    link_shared_folders(home)
    assert main(["pull", "starter"]) == 0
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 32), ("heldout", 4)):
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (data / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    packed = trained(home, data, "packed", "quant.bits=4")
    plain = trained(home, data, "plain")
    assert packed.metrics["eval_loss"] < 0.9 * packed.metrics["base_eval_loss"]
    # so small a model loses 0.4 nats by 4 bits; the adapter makes up for a part of that at once
    lost = {
        key: packed.metrics[key] - plain.metrics[key] for key in ("base_eval_loss", "eval_loss")
    }
    assert 0 < lost["eval_loss"] < 0.75 * lost["base_eval_loss"]
    assert packed.metrics["peak_memory_bytes"] < plain.metrics["peak_memory_bytes"]
    assert packed.notes["base_held"] == "4 bits (nf4, double)"
