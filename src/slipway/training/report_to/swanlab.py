"""SwanLab, where the user is logged in or SWANLAB_MODE says `local` or `offline`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


class SwanLabSink:
    """A run of SwanLab's."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each chart."""
        self._module.log(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text."""
        self._module.log({name: self._module.Text(text)}, step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self._module.finish()


def open_sink(run_dir: Path, *, name: str, config: dict[str, Any]) -> SwanLabSink:
    """Begin a run of SwanLab's, or go on with the one that belongs to this folder."""
    import swanlab

    identity = hashlib.sha256(str(run_dir).encode()).hexdigest()[:21]
    swanlab.init(
        project="slipway",
        experiment_name=name,
        config=config,
        logdir=str(run_dir / "swanlog"),
        id=identity,
        resume="allow",
    )
    return SwanLabSink(swanlab)
