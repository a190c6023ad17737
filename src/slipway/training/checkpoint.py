"""Checkpoints: a folder appears whole or not at all, and holds all that the next step depends on.

`state.pt` holds the trained weights, the optimiser's state and the random state; `checkpoint.json`
the step, the plan, what the run was made from, and the digest of `state.pt`. A checkpoint that is
not whole is passed over for the one before: the steps between are taken again, with the same
result. The data position and the schedule are functions of the step
(see `plan`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError
from slipway.core.files import new_folder, sha256_file, write_json
from slipway.core.i18n import tr
from slipway.training.methods import Tuned
from slipway.training.plan import Plan
from slipway.training.sharding.split import load_optimizer_state
from slipway.training.tensor_file import read_tensors, write_tensors

STATE = "state.pt"


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


RandomState = tuple[torch.Tensor, list[torch.Tensor]]


def random_state() -> RandomState:
    """This process's random state, of the CPU and of its GPUs."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda


def save(
    run_dir: Path,
    progress: Progress,
    trained: dict[str, torch.Tensor],
    optimizer: dict[str, Any],
    *,
    keep: int = 2,
    random: Sequence[RandomState] | None = None,
) -> Path:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Args:
        trained, optimizer: the trained weights by name, and the optimiser's state.
        random: the random state of each process; default: of this one.

    Raises:
        ResourceError: the disk is full; older checkpoints are untouched.
    """
    folder = run_dir / "checkpoints" / f"step-{progress.step:07}"
    state = {
        "trained": trained,
        "optimizer": optimizer,
        "random": [list(one) for one in random or [random_state()]],
    }
    with new_folder(folder) as temporary:
        digest = write_tensors(temporary / STATE, state)
        write_json(temporary / "checkpoint.json", {**asdict(progress), "sha256": digest})
    for old in _folders(run_dir)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _folders(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "checkpoints").glob("step-*"))


def latest(
    run_dir: Path, on_damaged: Callable[[Path, str], None] = lambda folder, reason: None
) -> tuple[Path, Progress] | None:
    """The newest whole checkpoint of a run, if any.

    Args:
        on_damaged: told of each newer one that is not whole, and why.

    Raises:
        InputError: there are checkpoints, and none is whole.
    """
    first: tuple[Path, Exception] | None = None
    for folder in reversed(_folders(run_dir)):
        try:
            return folder, _progress(folder)
        except (OSError, ValueError, TypeError, KeyError) as error:
            on_damaged(folder, str(error))
            first = first or (folder, error)
    if first is None:
        return None
    raise _unreadable(*first)


def _progress(folder: Path) -> Progress:
    raw = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    digest = raw.pop("sha256")
    progress = Progress(**{**raw, "plan": Plan(**raw["plan"])})
    if sha256_file(folder / STATE) != digest:
        raise ValueError(f"{STATE} is damaged: its SHA-256 is another")
    return progress


def _unreadable(folder: Path, error: Exception) -> InputError:
    return InputError(
        "run.bad_checkpoint",
        tr("the checkpoint {path} cannot be read: {reason}", path=str(folder), reason=str(error)),
        tr("remove {path}, then run the command again", path=str(folder.parent)),
    )


def restore(folder: Path, tuned: Tuned, optimizer: Any, *, rank: int = 0) -> None:
    """Put a checkpoint's tensors and random state back.

    A process beyond those that the checkpoint knows keeps the random state it has.

    Raises:
        InputError: the file is damaged or does not fit the model.
    """
    try:
        state = read_tensors(folder / STATE)
    except ValueError as error:
        raise _unreadable(folder, error) from error
    tuned.load_state(state["trained"], folder)
    load_optimizer_state(optimizer, state["optimizer"])
    if rank < len(state["random"]):
        here, cuda = state["random"][rank]
        torch.set_rng_state(here)
        if cuda and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all(cuda)


def remove_all(run_dir: Path) -> None:
    """Remove every checkpoint of a run."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
