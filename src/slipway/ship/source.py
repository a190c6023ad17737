"""What is shipped: a run, a merged model, or a GGUF."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.core.errors import ConflictError, InputError, NotFoundError, SlipwayError, nearest
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, Manifest, read_manifest
from slipway.core.paths import Home
from slipway.export.hf import parent_of
from slipway.export.quantise.source import read_source
from slipway.jobs import Run, Runs

SourceKind = Literal["run", "model", "gguf"]
LAST = "last"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a ship begins.

    Attributes:
        kind: a run is merged first, a model folder converted, a GGUF only quantised.
        folder: the artefact's folder.
        digest: its identity.
        name: the beginning of the names of what is made from it.
        run: folder of the run that it comes from, where that is known.
    """

    kind: SourceKind
    folder: Path
    digest: str
    name: str
    run: Path | None


def find_source(name: str, home: Home) -> Source:
    """Find what a user named; see `ShipOptions.source`.

    Raises:
        NotFoundError: there is nothing of that name.
        ConflictError: the run is not finished, or several have that name.
        InputError: it is of a kind that cannot be shipped.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        path = path.parent
    for folder in (path, home.artefacts / name):
        if (folder / FILE_NAME).is_file() or (folder / "config.json").is_file():
            return _from_folder(folder.resolve(), home)
    with Runs(home) as index:
        run = _newest(index) if name == LAST else _named(index, name, home)
    if not (run.folder / FILE_NAME).is_file():
        raise ConflictError(
            "ship.run_not_finished",
            tr("the run {name} is not finished", name=run.name),
            tr("let it go on with `slipway runs resume {name}`", name=run.name),
        )
    return _from_folder(run.folder.resolve(), home)


def _newest(index: Runs) -> Run:
    finished = [run for run in index.all() if (run.folder / FILE_NAME).is_file()]
    if not finished:
        raise NotFoundError(
            "ship.no_run",
            tr("no run is finished yet"),
            tr("train one with `slipway train RECIPE.yaml`"),
        )
    return finished[0]


def _named(index: Runs, name: str, home: Home) -> Run:
    try:
        return index.find(name)
    except NotFoundError as error:
        names = [run.name for run in index.all()]
        made = home.artefacts.iterdir() if home.artefacts.is_dir() else ()
        names += [path.name for path in made if (path / FILE_NAME).is_file()]
        close = nearest(name, names)
        raise NotFoundError(
            "ship.source_not_found",
            tr("there is no run, merged model or GGUF artefact `{name}`", name=name),
            tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
            if close
            else tr("see the runs with `slipway runs ls`; `last` is the newest one"),
        ) from error


def _from_folder(folder: Path, home: Home) -> Source:
    if not (folder / FILE_NAME).is_file():
        return Source("model", folder, next(iter(parent_of(folder).values())), folder.name, None)
    manifest = read_manifest(folder)
    if manifest.kind == "run":
        return Source("run", folder, manifest.digest, folder.name, folder)
    run = _run_behind(manifest, home)
    if manifest.kind in ("merged", "base"):
        return Source("model", folder, manifest.digest, folder.name, run)
    if manifest.kind in ("gguf", "quant"):
        read_source(folder, allow_quantised=False)
        return Source("gguf", folder, manifest.digest, folder.name, run)
    raise InputError(
        "ship.wrong_kind",
        tr(
            "{folder} holds a `{found}`, which cannot be shipped",
            folder=folder,
            found=manifest.kind,
        ),
        tr("name a run, a merged model or a GGUF artefact; see `slipway ship --help`"),
    )


def _run_behind(manifest: Manifest, home: Home) -> Path | None:
    """The run that an artefact was made from, by the digests of its parents."""
    parents = dict(manifest.parents)
    if "run" not in parents and "merged" in parents:
        for path in sorted(home.artefacts.glob(f"*/{FILE_NAME}")):
            try:
                merged = read_manifest(path.parent)
            except SlipwayError:
                continue
            if merged.digest == parents["merged"]:
                parents = dict(merged.parents)
                break
    if "run" not in parents:
        return None
    with Runs(home) as index:
        for run in index.all():
            try:
                if read_manifest(run.folder, kind="run").digest == parents["run"]:
                    return run.folder
            except SlipwayError:
                continue
    return None
