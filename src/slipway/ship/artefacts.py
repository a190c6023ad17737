"""Artefact folders as stages pass them on, and whether one is still whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.errors import SlipwayError
from slipway.core.manifest import Manifest, read_manifest

Outputs = dict[str, Any]
Results = dict[str, Outputs]


def artefact(folder: Path, manifest: Manifest | None = None) -> Outputs:
    """How an artefact folder is passed to later stages: its path and digest."""
    manifest = manifest or read_manifest(folder)
    return {"folder": str(folder), "digest": manifest.digest}


def whole_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished artefact that has all its files; else None.

    Sizes are compared, not contents: a stage is skipped within milliseconds.
    """
    try:
        manifest = read_manifest(folder)
    except SlipwayError:
        return None
    whole = all(
        (folder / f.path).is_file() and (folder / f.path).stat().st_size == f.size
        for f in manifest.files
    )
    return manifest if whole else None


def artefact_is_whole(folder: Path, digest: str | None = None) -> bool:
    """Whether a finished artefact lies in `folder` with all its files (and has this digest)."""
    manifest = whole_manifest(folder)
    return manifest is not None and digest in (None, manifest.digest)


def intact(outputs: Outputs) -> bool:
    """Whether every artefact named in `outputs` is still there, whole and the same."""
    if "folder" in outputs and not artefact_is_whole(Path(outputs["folder"]), outputs["digest"]):
        return False
    return all(intact(value) for value in outputs.values() if isinstance(value, dict))
