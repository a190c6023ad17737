"""What every stage of the demo is given."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import SlipwayError
from slipway.core.events import EventLog
from slipway.core.files import sha256_json
from slipway.core.i18n import Text
from slipway.core.manifest import Manifest, read_manifest
from slipway.core.paths import Home
from slipway.demo.options import DemoOptions

Outputs = dict[str, Any]
Results = dict[str, Outputs]


@dataclass(frozen=True, slots=True)
class DemoContext:
    """The demo's choices and places.

    Attributes:
        folder: holds the pipeline's record and every artefact of this demo.
        base: name of the base model, already decided.
        data: the dataset folder, already decided.
        say: tells the reader one fact about the running stage.
    """

    options: DemoOptions
    home: Home
    folder: Path
    base: str
    data: Path
    events: EventLog
    say: Callable[[Text | str], None]


def artefact(folder: Path, manifest: Manifest | None = None) -> Outputs:
    """How an artefact folder is passed to later stages: its path and digest."""
    manifest = manifest or read_manifest(folder)
    return {"folder": str(folder), "digest": manifest.digest}


def artefact_is_whole(folder: Path, digest: str | None = None) -> bool:
    """Whether a finished artefact lies in `folder` with all its files (and has this digest).

    Sizes are compared, not contents: a stage is skipped within milliseconds.
    """
    try:
        manifest = read_manifest(folder)
    except SlipwayError:
        return False
    return digest in (None, manifest.digest) and all(
        (folder / f.path).is_file() and (folder / f.path).stat().st_size == f.size
        for f in manifest.files
    )


def intact(outputs: Outputs) -> bool:
    """Whether every artefact named in `outputs` is still there, whole and the same."""
    if "folder" in outputs and not artefact_is_whole(Path(outputs["folder"]), outputs["digest"]):
        return False
    return all(intact(value) for value in outputs.values() if isinstance(value, dict))


def stage_folder(context: DemoContext, name: str, inputs: object) -> Path:
    """The folder for a stage's product, named after its inputs.

    A killed stage finds its own half-done work again, and other inputs never meet it; older
    products of the stage are removed.
    """
    folder = context.folder / f"{name}-{sha256_json(inputs)[:10]}"
    for other in context.folder.glob(f"{name}-*"):
        if other != folder and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
    return folder
