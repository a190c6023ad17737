"""What a run folder holds when a run begins: nothing, a checkpoint, or the finished run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, NotFoundError
from slipway.core.events import EventLog
from slipway.core.files import sha256_file, sha256_json
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, read_manifest, verify_files
from slipway.training.begun import adapter_identity
from slipway.training.folder import (
    ADAPTER,
    BEST_FOLDER,
    CURVE,
    EVENTS,
    MODEL,
    RECIPE,
    REFERENCE,
    SETTINGS,
)
from slipway.training.spec import TrainSpec
from slipway.training.spec.keys import COSMETIC

# keys that leave a run the same run: cosmetic ones, and places, which are known by their content
NEUTRAL = COSMETIC | {"model", "adapter", "data", "eval_data"}


@dataclass(frozen=True, slots=True)
class FolderState:
    """What a run folder holds when a run begins.

    Attributes:
        finished: the manifest of this very run, done before.
        found: the checkpoint to go on from.
        damaged: newer checkpoints that are not whole.
    """

    identity: dict[str, str]
    finished: Manifest | None = None
    found: Any = None
    damaged: tuple[str, ...] = ()


def state_of(
    spec: TrainSpec, base: Path, run_dir: Path, outer: EventLog, resume: bool
) -> FolderState:
    """What the folder holds of this run; with `resume` off it is cleared first.

    Raises:
        ConflictError: it holds a run of another recipe, base or dataset.
        InputError: there are checkpoints, and none is whole.
    """
    from slipway.training import checkpoint
    from slipway.training.model import base_digest

    """What the folder holds of this run; with `resume` off it is cleared first.

    Raises:
        ConflictError: it holds a run of another recipe, base or dataset.
        InputError: no checkpoint is whole.
    """
    identity = _identity(spec, base_digest(base))
    if not resume:
        _clear(run_dir)
    if finished := _finished(run_dir, identity, outer):
        return FolderState(identity, finished)
    damaged: list[str] = []
    found = checkpoint.latest(run_dir, lambda at, why: damaged.append(f"{at.name}: {why}"))
    if found and found[1].identity != identity:
        raise _other_run(run_dir, found[1].identity, identity)
    return FolderState(identity, None, found, tuple(damaged))


def _identity(spec: TrainSpec, base: str) -> dict[str, str]:
    from slipway.training.model import base_digest
    from slipway.training.token_sets import data_identity

    identity = {"base": base, "dataset": data_identity(spec.sources, spec.stage)}
    if spec.eval_data:
        identity["eval_dataset"] = data_identity(spec.eval_sources, spec.stage)
    if spec.adapter:
        identity["adapter"] = adapter_identity(Path(spec.adapter), base)
    if spec.preference.ref_model:
        identity["reference"] = base_digest(Path(spec.preference.ref_model))
    if spec.rl.reward_function:
        identity["reward"] = "sha256:" + sha256_file(
            Path(spec.rl.reward_function.rpartition(":")[0])
        )
    if spec.rl.reward_model:
        identity["reward"] = base_digest(Path(spec.rl.reward_model))
    identity["recipe"] = "sha256:" + sha256_json(spec.model_dump(exclude=set(NEUTRAL)))
    return identity


def _finished(run_dir: Path, identity: dict[str, str], outer: EventLog) -> Manifest | None:
    """The manifest when the folder holds this run, finished and whole; a damaged one is cleared."""
    try:
        manifest = read_manifest(run_dir, kind="run")
    except NotFoundError:
        return None
    if manifest.notes.get("identity") != identity:
        raise _other_run(run_dir, manifest.notes.get("identity", {}), identity)
    if damaged := verify_files(run_dir, manifest):
        outer.emit("log", message=f"{', '.join(damaged)} of the finished run changed: trained anew")
        _clear(run_dir)
        return None
    return manifest


def _other_run(run_dir: Path, there: dict[str, str], here: dict[str, str]) -> ConflictError:
    changed = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
    return ConflictError(
        "run.other_recipe",
        tr(
            "{path} holds a run with another {what}",
            path=str(run_dir),
            what=", ".join(changed),
        ),
        tr("give another `--run-dir`, or start anew in this one with `--fresh`"),
    )


def _clear(run_dir: Path) -> None:
    """Remove what a run made, and nothing else that may lie in the folder."""
    (run_dir / "manifest.json").unlink(missing_ok=True)  # first: no half-removed finished run
    for name in (ADAPTER, MODEL, "checkpoints", BEST_FOLDER, REFERENCE, "tensorboard"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    for name in (RECIPE, SETTINGS, EVENTS, CURVE):
        (run_dir / name).unlink(missing_ok=True)
