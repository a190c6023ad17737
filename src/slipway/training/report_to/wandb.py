"""Weights & Biases, where the user is logged in or WANDB_MODE says `offline`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


class WandbSink:
    """A run of W&B's."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each chart."""
        # their own step must not go back, ours does after a resume: it is a value like others
        self._run.log({**values, "step": step})

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text."""
        self._run.log({f"{name}/text": text, "step": step})

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


def open_sink(run_dir: Path, *, name: str, config: dict[str, Any]) -> WandbSink:
    """Begin a run of W&B's, or go on with the one that belongs to this folder."""
    import wandb

    identity = hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]
    run = wandb.init(
        project="slipway",
        name=name,
        config=config,
        dir=str(run_dir),
        id=identity,
        resume="allow",
    )
    run.define_metric("*", step_metric="step")
    return WandbSink(run)
