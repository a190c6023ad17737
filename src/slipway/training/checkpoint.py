"""Checkpoints: a folder appears whole or not at all, and holds all that the next step depends on.

`state.pt` holds the adapter, AdamW's moments and the random state; `checkpoint.json` the step, the
plan and what the run was made from. The data position and the schedule are functions of the step
(see `plan`).
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slipway.core.errors import InputError
from slipway.core.files import new_folder, write_bytes, write_json
from slipway.core.i18n import tr
from slipway.training import lora
from slipway.training.plan import Plan


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run knows about itself, apart from tensors.

    Attributes:
        step: optimiser steps done.
        identity: digests of base, data and recipe; a checkpoint of another identity is not used.
        seconds: of work up to here, over all interrupted parts.
        step_seconds: of it, in training steps.
        tokens: trained on up to here.
        base_eval_loss, eval_loss: before the first step, and the newest.
        evaluated: the step of the newest eval.
        best_loss, best_step, since_best: the lowest eval loss after the first step, when it was,
            and the evals since.
    """

    step: int
    plan: Plan
    identity: dict[str, str]
    seconds: float = 0.0
    step_seconds: float = 0.0
    tokens: int = 0
    train_loss: float | None = None
    base_eval_loss: float | None = None
    eval_loss: float | None = None
    evaluated: int = 0
    best_loss: float | None = None
    best_step: int = 0
    since_best: int = 0
    peak_memory_bytes: int = 0


def save(
    run_dir: Path, progress: Progress, model: nn.Module, optimizer: Any, *, keep: int = 2
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Raises:
        ResourceError: the disk is full; older checkpoints are untouched.
    """
    folder = run_dir / "checkpoints" / f"step-{progress.step:07}"
    state = {
        "adapter": lora.state(model),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    # through memory, so that a full disk is an OSError and not one of torch's RuntimeErrors
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with new_folder(folder) as temporary:
        write_bytes(temporary / "state.pt", buffer.getvalue())
        write_json(temporary / "checkpoint.json", asdict(progress))
    for old in _folders(run_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _folders(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints").glob("step-*"))


def latest(run_dir: Path) -> tuple[Path, Progress] | None:
    """The newest checkpoint of a run, if any.

    Raises:
        InputError: its record cannot be read.
    """
    folders = _folders(run_dir)
    if not folders:
        return None
    path = folders[-1] / "checkpoint.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return folders[-1], Progress(**{**raw, "plan": Plan(**raw["plan"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "run.bad_checkpoint",
            tr("the checkpoint {path} cannot be read: {reason}", path=str(path), reason=str(error)),
            tr("remove {path}, then run the command again", path=str(folders[-1])),
        ) from error


def restore(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Put a checkpoint's tensors and random state back.

    Raises:
        InputError: the file is damaged or does not fit the model.
    """
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(
            "run.bad_checkpoint",
            tr("the checkpoint {path} cannot be read: {reason}", path=str(folder), reason=error),
            tr("remove {path}, then run the command again", path=str(folder)),
        ) from error
    lora.load_state(model, state["adapter"], folder)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])


def remove_all(run_dir: Path) -> None:
    """Remove every checkpoint of a run."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
