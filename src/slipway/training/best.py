"""Which eval was the best so far, when to stop for lack of a better one, and the state it had."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.files import new_folder, write_json
from slipway.core.i18n import tr
from slipway.training.folder import BEST_FOLDER
from slipway.training.tensor_file import read_tensors, write_tensors


@dataclass(frozen=True, slots=True)
class Best:
    """The evals of a run so far, as far as they decide anything.

    Attributes:
        loss, step: of the lowest eval loss; the base's, before the first step, does not count.
        since: evals since then.
    """

    loss: float | None = None
    step: int = 0
    since: int = 0

    def after(self, step: int, loss: float) -> Best:
        """With one more eval; an equal loss is no better one, and one that is no number is none."""
        if loss == loss and (self.loss is None or loss < self.loss):
            return Best(loss, step, 0)
        return Best(self.loss, self.step, self.since + 1)

    def is_over(self, patience: int | None) -> bool:
        """Whether early stopping ends the run: so many evals in a row brought nothing lower."""
        return patience is not None and self.since >= patience


def save_best(run_dir: Path, step: int, state: dict[str, Any]) -> None:
    """Keep the trained tensors of a step in the run folder, in place of those kept before.

    Raises:
        ResourceError: the disk is full; those kept before are untouched.
    """
    with new_folder(run_dir / BEST_FOLDER) as folder:
        digest = write_tensors(folder / "state.pt", state)
        write_json(folder / "best.json", {"step": step, "sha256": digest})


def load_best(run_dir: Path) -> dict[str, Any]:
    """The tensors that `save_best` kept.

    Raises:
        InputError: they are gone or damaged.
    """
    path = run_dir / BEST_FOLDER / "state.pt"
    try:
        told = json.loads(path.with_name("best.json").read_text(encoding="utf-8"))
        state = read_tensors(path, told["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "run.bad_checkpoint",
            tr("the checkpoint {path} cannot be read: {reason}", path=str(path), reason=str(error)),
            tr("train without `keep_best`, or anew with `--fresh`"),
        ) from error
    return dict(state)


def remove_best(run_dir: Path) -> None:
    """Remove the kept tensors, after the artefact has them."""
    shutil.rmtree(run_dir / BEST_FOLDER, ignore_errors=True)
