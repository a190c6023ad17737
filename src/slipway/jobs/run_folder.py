"""What a run folder says about itself; it is the truth, the index only remembers where it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, SlipwayError
from slipway.core.events import read_events
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, Manifest, Setting, flatten, read_manifest
from slipway.core.owner import owned, owner_of
from slipway.core.paths import Home
from slipway.jobs.summary import EVENTS

LOCK = ".lock"
SETTINGS = "settings.json"
STOP = "stop"
CURVES = ("curves.png", "loss_curve.png")
MADE = (
    "adapter",
    "best",
    "checkpoints",
    "model",
    "reference",
    "tensorboard",
    "recipe.yaml",
    SETTINGS,
    EVENTS,
    STOP,
    *CURVES,
    LOCK,
)


def run_id(folder: Path) -> str:
    """A run's short id: eight hex digits that follow from where its folder is."""
    return hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]


def is_run(folder: Path) -> bool:
    """Whether a run has begun there."""
    return any((folder / name).is_file() for name in (SETTINGS, EVENTS, FILE_NAME))


def new_folders(home: Home, known: Collection[str]) -> list[Path]:
    """The run folders in SLIPWAY_HOME/runs, and those elsewhere that were told to `remember`.

    Args:
        known: paths that need not be looked at again.
    """
    here: list[Path] = []
    with suppress(FileNotFoundError), os.scandir(home.runs) as entries:
        here = [Path(e.path) for e in entries if e.path not in known and e.is_dir()]
    there = [path for path in _elsewhere(home) if str(path) not in known]
    return [path for path in (*sorted(here), *there) if is_run(path)]


def remember(home: Home, folder: Path) -> None:
    """Note a run folder that is not in SLIPWAY_HOME/runs, so that a lost index finds it again."""
    folder = folder.absolute()
    if folder.parent == home.runs or folder in _elsewhere(home):
        return
    home.runs.mkdir(parents=True, exist_ok=True)
    with (home.runs / ".elsewhere").open("a", encoding="utf-8") as file:
        file.write(f"{folder}\n")


def _elsewhere(home: Home) -> list[Path]:
    try:
        lines = (home.runs / ".elsewhere").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [Path(line) for line in dict.fromkeys(lines) if line.startswith("/")]


def trainer_of(folder: Path) -> int | None:
    """The id of the process that trains there now."""
    return owner_of(folder / LOCK)


def manifest_of(folder: Path) -> Manifest | None:
    """The manifest of a finished run; None when there is none, or a damaged one."""
    try:
        return read_manifest(folder, kind="run")
    except SlipwayError:
        return None


def settings_of(folder: Path, manifest: Manifest | None = None) -> dict[str, Setting]:
    """Every setting, by its dotted key, with its origin; empty when the folder does not say."""
    try:
        raw = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        origins = raw["origins"]
        return {
            key: Setting(value, origins.get(key, "default"))
            for key, value in flatten(raw["spec"]).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return dict(manifest.config) if manifest else {}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved state of a run."""

    step: int
    path: Path
    size: int


def checkpoints_of(folder: Path) -> list[Checkpoint]:
    """The whole checkpoints, oldest first."""
    found = []
    for path in sorted((folder / "checkpoints").glob("step-*")):
        number = path.name.removeprefix("step-")
        if number.isdigit():
            size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            found.append(Checkpoint(int(number), path, size))
    return found


def samples_of(folder: Path) -> list[dict[str, Any]]:
    """The samples of the newest eval that made some: step, prompt, answer."""
    samples = list(read_events(folder / EVENTS, "sample"))
    newest = max((int(sample.get("step", 0)) for sample in samples), default=0)
    by_prompt = {s.get("prompt"): s for s in samples if int(s.get("step", 0)) == newest}
    return list(by_prompt.values())


def curve_of(folder: Path) -> Path | None:
    """The newest picture of the run's curves."""
    return next((folder / name for name in CURVES if (folder / name).is_file()), None)


def remove_folder(folder: Path, *, whole: bool) -> None:
    """Remove a run's folder while nobody can begin to train in it.

    Args:
        whole: with all that lies there; else only what the run made, as the folder may be
            somebody's own.

    Raises:
        ConflictError: a process trains there.
    """
    if not folder.is_dir():
        return
    with owned(folder / LOCK) as mine:
        if not mine:
            raise ConflictError(
                "run.busy",
                tr("another process is training in {path}", path=str(folder)),
                tr("stop it first: `slipway runs stop {path}`", path=str(folder)),
            )
        manifest = manifest_of(folder)
        made = {Path(entry.path).parts[0] for entry in manifest.files} if manifest else set()
        # first the manifest: a half-removed folder must not pass for a finished run
        (folder / FILE_NAME).unlink(missing_ok=True)
        if not whole:
            for name in (*MADE, *made):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
            return
        shutil.rmtree(folder)


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() or p.is_symlink())
