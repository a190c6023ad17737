"""`manifest.json`: what an artefact folder is, what it was made from, and how.

The artefact is the interface between steps: each step reads and writes a folder with this file.
The artefact's digest is the SHA-256 over its files' names and digests, so that equal content has
an equal digest wherever it lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from slipway import __version__
from slipway.core.errors import ConflictError, InputError, NotFoundError, SlipwayError
from slipway.core.files import sha256_file, sha256_json, write_json
from slipway.core.i18n import Text, tr

FILE_NAME = "manifest.json"
SCHEMA = 1

Kind = Literal[
    "base",
    "dataset",
    "run",
    "merged",
    "gguf",
    "gguf-adapter",
    "imatrix",
    "quant",
    "evaluation",
    "toolchain",
    "report",
]
Origin = Literal["flag", "env", "file", "parent", "measured", "llamafactory", "default"]

_MADE_BY: dict[Kind, str] = {
    "base": "slipway pull starter",
    "run": "slipway train RECIPE.yaml",
    "merged": "slipway merge RUN",
    "gguf": "slipway convert MODEL",
    "gguf-adapter": "slipway convert RUN --adapter",
    "imatrix": "slipway imatrix GGUF --text FILE",
    "quant": "slipway quantize GGUF -t Q4_K_M",
    "toolchain": "slipway toolchain install",
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the artefact: path below the folder, size in bytes, SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Setting:
    """A resolved config value and where it came from."""

    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Manifest:
    """An artefact's record.

    Attributes:
        kind: what the folder holds.
        name: short name for people.
        digest: "sha256:<hex>" over `files`; the artefact's identity.
        parents: role ("base", "dataset", "run", ...) -> digest of what it was made from.
        config: every resolved setting with its origin.
        versions: package or tool -> version.
        metrics: numbers measured while making it (loss, seconds, bytes, ...).
        notes: facts a reader should know, in English (fall-backs, proofs, provenance).
        created_at: RFC 3339, UTC.
    """

    kind: Kind
    name: str
    digest: str
    files: tuple[FileEntry, ...]
    parents: dict[str, str] = field(default_factory=dict)
    config: dict[str, Setting] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    schema: int = SCHEMA


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones: `{"lora": {"rank": 8}}` -> `{"lora.rank": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def utc_now() -> str:
    """The time now as RFC 3339 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def package_versions(*packages: str) -> dict[str, str]:
    """Installed versions of Slipway and of `packages`; those not installed are left out."""
    found = {"slipway": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def files_digest(files: tuple[FileEntry, ...]) -> str:
    """The artefact digest of a set of files."""
    return "sha256:" + sha256_json(sorted((f.path, f.sha256) for f in files))


def describe_files(folder: Path, names: list[str] | None = None) -> tuple[FileEntry, ...]:
    """Digest the files of `folder` (all of them, sorted, or those in `names`).

    The manifest itself is never among them.
    """
    paths = (
        [folder / name for name in names]
        if names is not None
        else sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE_NAME)
    )
    return tuple(
        FileEntry(str(p.relative_to(folder)), p.stat().st_size, sha256_file(p)) for p in paths
    )


def write_manifest(
    folder: Path,
    kind: Kind,
    name: str,
    *,
    files: list[str] | None = None,
    parents: dict[str, str] | None = None,
    config: dict[str, Setting] | None = None,
    versions: dict[str, str] | None = None,
    metrics: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
) -> Manifest:
    """Digest the files of `folder` and write its manifest; the last step of making an artefact.

    Args:
        files: names that make up the identity; default is every file in the folder.
    """
    entries = describe_files(folder, files)
    manifest = Manifest(
        kind=kind,
        name=name,
        digest=files_digest(entries),
        files=entries,
        parents=parents or {},
        config=config or {},
        versions=versions or package_versions(),
        metrics=metrics or {},
        notes=notes or {},
        created_at=utc_now(),
    )
    write_json(folder / FILE_NAME, asdict(manifest))
    return manifest


def _how_to_make(kind: Kind | None) -> Text | str:
    command = _MADE_BY.get(kind) if kind else None
    return tr("make one with `{command}`", command=command) if command else ""


def read_manifest(folder: Path, *, kind: Kind | None = None) -> Manifest:
    """Read and check the manifest of an artefact folder.

    Raises:
        NotFoundError: there is no manifest (the folder is no finished artefact).
        InputError: the manifest is malformed, or of another kind than asked for.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise NotFoundError(
            "artefact.not_found",
            tr("{folder} holds no finished artefact", folder=str(folder)),
            _how_to_make(kind),
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(
            **{
                **raw,
                "files": tuple(FileEntry(**f) for f in raw["files"]),
                "config": {k: Setting(**v) for k, v in raw["config"].items()},
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "artefact.bad_manifest",
            tr("{path} is not a readable manifest: {reason}", path=str(path), reason=str(error)),
            _how_to_make(kind),
        ) from error
    if manifest.kind not in get_args(Kind):
        raise InputError(
            "artefact.bad_manifest",
            tr("{path} is not a readable manifest: {reason}", path=str(path), reason="kind"),
        )
    if kind and manifest.kind != kind:
        raise InputError(
            "artefact.wrong_kind",
            tr(
                "{folder} holds a `{found}`, but a `{wanted}` is needed here",
                folder=str(folder),
                found=manifest.kind,
                wanted=kind,
            ),
            _how_to_make(kind),
        )
    return manifest


def require_replaceable(folder: Path, kind: Kind) -> None:
    """Refuse to make an artefact where something else lies, which would be lost.

    Raises:
        ConflictError: `folder` is a file, or holds anything but an artefact of this kind.
    """
    if folder.is_dir():
        if not any(folder.iterdir()):
            return
        try:
            read_manifest(folder, kind=kind)
            return
        except SlipwayError:
            pass
    elif not folder.exists():
        return
    raise ConflictError(
        "artefact.place_taken",
        tr("{folder} holds other things, which would be lost", folder=str(folder)),
        tr(
            "give the folder of an earlier `{kind}`, or a new one: `-o {new}`",
            kind=kind,
            new=f"{folder.resolve()}-{kind}",
        ),
    )


def verify_files(folder: Path, manifest: Manifest) -> list[str]:
    """The files whose size or digest no longer match the manifest; empty when all is well."""
    bad = []
    for entry in manifest.files:
        path = folder / entry.path
        if (
            not path.is_file()
            or path.stat().st_size != entry.size
            or sha256_file(path) != entry.sha256
        ):
            bad.append(entry.path)
    return bad
