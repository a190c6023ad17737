"""Find a toolchain that is already there. Nothing is built, fetched or run: file look-ups only."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import ResourceError, SlipwayError, UsageError
from slipway.core.files import write_json
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, Manifest, read_manifest
from slipway.core.paths import Home
from slipway.export.toolchain.model import CONVERTER, PROGRAMS, VERSION, Toolchain

CONFIGURED = "SLIPWAY_TOOLCHAIN"


def find_toolchain(home: Home) -> Toolchain | None:
    """The toolchain to use now, or None when `install_toolchain` has to make one.

    Looks in order at the folder in SLIPWAY_TOOLCHAIN, the programs on PATH (only those that
    `install_toolchain` has tested and that have not changed since), and `home.toolchains`.

    Raises:
        UsageError: SLIPWAY_TOOLCHAIN names a folder that lacks a program or the converter.
    """
    return configured() or tested_on_path(home) or installed(home)


def require_toolchain(home: Home) -> Toolchain:
    """The toolchain to use now.

    Raises:
        ResourceError: there is none yet.
        UsageError: see `find_toolchain`.
    """
    found = find_toolchain(home)
    if found is None:
        raise ResourceError(
            "toolchain.missing",
            tr("llama.cpp's tools are not installed"),
            tr("install them with `slipway toolchain install`"),
        )
    return found


@dataclass(frozen=True, slots=True)
class Located:
    """Where the parts of a folder are; `missing` names what is not there."""

    bin: Path
    source: Path
    missing: tuple[str, ...]


def locate(folder: Path) -> Located:
    """Look for programs and converter in our own layout, a llama.cpp checkout, or a flat folder."""
    bins = [folder / "bin", folder / "build" / "bin", folder]
    best = min(bins, key=lambda path: len(_missing_programs(path)))
    parents = (folder, folder.parent, folder.parent.parent)
    sources = [path for parent in parents for path in (parent / "source", parent)]
    source = next((path for path in sources if (path / CONVERTER).is_file()), folder)
    missing = _missing_programs(best)
    if not (source / CONVERTER).is_file():
        missing.append(CONVERTER)
    return Located(best, source, tuple(missing))


def _missing_programs(folder: Path) -> list[str]:
    return [name for name in PROGRAMS if not (folder / name).is_file()]


def configured() -> Toolchain | None:
    """The toolchain in SLIPWAY_TOOLCHAIN, or None when that is not set."""
    value = os.environ.get(CONFIGURED, "").strip()
    if not value:
        return None
    folder = Path(value).expanduser().resolve()
    found = locate(folder)
    if found.missing:
        raise UsageError(
            "toolchain.incomplete",
            tr(
                "{variable}={folder} lacks {missing}",
                variable=CONFIGURED,
                folder=str(folder),
                missing=", ".join(found.missing),
            ),
            tr("unset {variable}, then run `slipway toolchain install`", variable=CONFIGURED),
        )
    if (folder / FILE_NAME).is_file():
        manifest = read_manifest(folder, kind="toolchain")
        return _from_manifest(folder, manifest, provider_configured=True)
    return Toolchain(folder, found.bin, found.source, "unknown", "configured")


def installed(home: Home) -> Toolchain | None:
    """The newest complete toolchain below `home.toolchains` of the pinned release, else of any."""
    found: list[tuple[bool, str, Toolchain]] = []
    for path in home.toolchains.glob(f"*/{FILE_NAME}"):
        try:
            manifest = read_manifest(path.parent, kind="toolchain")
        except SlipwayError:
            continue  # half-deleted or foreign folder: `install_toolchain` makes a new one
        if not locate(path.parent).missing:
            toolchain = _from_manifest(path.parent, manifest)
            found.append((toolchain.version == VERSION, manifest.created_at, toolchain))
    return max(found, key=lambda item: item[:2])[2] if found else None


def _from_manifest(
    folder: Path, manifest: Manifest, *, provider_configured: bool = False
) -> Toolchain:
    return Toolchain(
        folder=folder,
        bin=folder / "bin",
        source=folder / "source",
        version=manifest.versions.get("llama.cpp", "unknown"),
        provider="configured" if provider_configured else "cache",
        flags=tuple(manifest.notes.get("flags", ())),
        variant=str(manifest.notes.get("variant", "unknown")),
    )


def candidate_on_path() -> Toolchain | None:
    """Programs and converter found on PATH, not yet checked in any way."""
    server = shutil.which("llama-server")
    if not server:
        return None
    real = Path(server).resolve().parent
    for folder in (Path(server).parent, real):
        found = locate(folder)
        if not found.missing:
            return Toolchain(folder, found.bin, found.source, "unknown", "path")
    return None


def tested_on_path(home: Home) -> Toolchain | None:
    """The programs on PATH, when their last self-test passed and they are still the same files."""
    candidate = candidate_on_path()
    if candidate is None:
        return None
    try:
        record = json.loads(_record(home).read_text(encoding="utf-8"))
        if record["stamp"] == _stamp(candidate) and record["passed"]:
            return Toolchain(
                candidate.folder, candidate.bin, candidate.source, record["version"], "path"
            )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


def remember_path(home: Home, toolchain: Toolchain, *, passed: bool, reason: str) -> None:
    """Record the result of checking the programs on PATH."""
    record = {
        "stamp": _stamp(toolchain),
        "version": toolchain.version,
        "passed": passed,
        "reason": reason,
    }
    write_json(_record(home), record)


def _record(home: Home) -> Path:
    return home.toolchains / "path.json"


def _stamp(toolchain: Toolchain) -> list[list[object]]:
    """Identity of the program files: name, size, time of change."""
    paths = [toolchain.bin / name for name in PROGRAMS]
    return [[str(p.resolve()), (s := p.stat()).st_size, s.st_mtime_ns] for p in paths]
