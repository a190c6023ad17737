"""Find a toolchain that is already there. Nothing is built, fetched or run: file look-ups only."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from slipway.core.errors import NotFoundError, SlipwayError, UsageError, nearest
from slipway.core.files import write_json
from slipway.core.hardware import processor
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, Manifest, read_manifest
from slipway.core.paths import Home
from slipway.export.toolchain.checks import check_of, state_of
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.model import CONVERTER, PROGRAMS, VERSION, Toolchain
from slipway.export.toolchain.variants import rank

CONFIGURED = "SLIPWAY_TOOLCHAIN"


def find_toolchain(home: Home) -> Toolchain | None:
    """The toolchain to use now, or None when `install_toolchain` has to make one.

    Looks in order at the folder in SLIPWAY_TOOLCHAIN, the programs on PATH (only those that
    `install_toolchain` has tested and that have not changed since), and `home.toolchains`. Those
    that failed on this processor are passed over; one that was tested on another processor only
    has the state "other_cpu" and is tested by `require_toolchain` before it is used.

    Raises:
        UsageError: SLIPWAY_TOOLCHAIN names a folder that lacks a program or the converter.
    """
    return configured() or tested_on_path(home) or installed(home)


@dataclass(frozen=True, slots=True)
class Located:
    """Where the parts of a folder are; `missing` names what is not there."""

    bin: Path
    source: Path
    missing: tuple[str, ...]


def locate(folder: Path) -> Located:
    """Look for programs and converter in our own layout, a llama.cpp checkout, or a flat folder."""
    bins = [folder / "bin", folder / "build" / "bin", folder]
    best = min(bins, key=lambda path: len(missing_programs(path)))
    parents = (folder, folder.parent, folder.parent.parent)
    sources = [path for parent in parents for path in (parent / "source", parent)]
    source = next((path for path in sources if (path / CONVERTER).is_file()), folder)
    missing = missing_programs(best)
    if not (source / CONVERTER).is_file():
        missing.append(CONVERTER)
    return Located(best, source, tuple(missing))


def missing_programs(folder: Path) -> list[str]:
    """The programs that a folder lacks to be a toolchain."""
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


@dataclass(frozen=True, slots=True)
class Installed:
    """A complete toolchain in the home.

    Attributes:
        name: name of its folder.
        manifest: its record.
        pinned: whether the user chose it with `use`.
    """

    name: str
    toolchain: Toolchain
    manifest: Manifest
    pinned: bool


def installed(home: Home) -> Toolchain | None:
    """The toolchain of the home to use now: the one the user chose, else the best."""
    return next((i.toolchain for i in all_installed(home) if i.toolchain.state != "failed"), None)


def all_installed(home: Home) -> list[Installed]:
    """The complete toolchains below `home.toolchains`, best first.

    The one that the user chose comes first, then those of the pinned release, faster variants
    before safer ones and newer before older.
    """
    found: list[Installed] = []
    chosen = pinned(home)
    here, cpu = stamp_here(), processor()[0]
    for path in home.toolchains.glob(f"*/{FILE_NAME}"):
        folder = path.parent
        try:
            manifest = read_manifest(folder, kind="toolchain")
        except SlipwayError:
            continue  # half-deleted or foreign folder: `install_toolchain` makes a new one
        if folder.name.startswith(".") or locate(folder).missing:
            continue
        state = state_of(manifest, check_of(home, folder.name, here), here, cpu)
        toolchain = replace(_from_manifest(folder, manifest), state=state)
        found.append(Installed(folder.name, toolchain, manifest, folder.name == chosen))
    found.sort(key=lambda item: item.manifest.created_at, reverse=True)
    return sorted(found, key=_preference)


def _preference(item: Installed) -> tuple[bool, bool, int]:
    return (
        not item.pinned,
        item.toolchain.version != VERSION,
        rank(item.toolchain.variant),
    )


def named_install(home: Home, name: str) -> Installed:
    """The installed toolchain of that name.

    Raises:
        NotFoundError: there is none; the message offers the nearest.
    """
    every = all_installed(home)
    for item in every:
        if item.name == name:
            return item
    close = nearest(name, [item.name for item in every])
    raise NotFoundError(
        "toolchain.no_such",
        tr("no toolchain `{name}` is installed", name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("see those there are with `slipway toolchain list`"),
    )


def pinned(home: Home) -> str | None:
    """The name of the toolchain that the user chose, or None."""
    try:
        value = json.loads(_pin_file(home).read_text(encoding="utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None


def pin(home: Home, name: str | None) -> None:
    """Choose the toolchain to use from now on; None lets the best be used."""
    if name is None:
        _pin_file(home).unlink(missing_ok=True)
    else:
        write_json(_pin_file(home), {"name": name})


def _pin_file(home: Home) -> Path:
    return home.toolchains / "in-use.json"


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
        same_cpu = record.get("cpu_stamp", stamp_here()) == stamp_here()
        if record["stamp"] == _stamp(candidate) and record["passed"] and same_cpu:
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
        "cpu_stamp": stamp_here(),
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
