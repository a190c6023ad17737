"""Models of another store, such as Ollama's own, into ours; hard links where the disk allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import NotFoundError, ProofError
from slipway.core.files import sha256_file, write_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.blobs import Blob
from slipway.store.manifests import Layer, ManifestStore, ModelManifest
from slipway.store.names import ModelName


@dataclass(frozen=True, slots=True)
class Imported:
    """A model that is ours now: its manifest, and the bytes that had to be copied."""

    model: ModelManifest
    copied_bytes: int


def import_models(source: Path, names: tuple[str, ...] = (), *, home: Home) -> Iterator[Imported]:
    """Take models over, each with its digests checked before its name appears.

    Args:
        source: a folder with `manifests/` and `blobs/`.
        names: which ones; empty is all.

    Raises:
        NotFoundError: no store there, or no such model in it.
        ProofError: a blob has another content than its name says.
    """
    theirs, ours = ManifestStore(source.expanduser()), ManifestStore(home.models)
    if not theirs.folder.is_dir():
        raise NotFoundError(
            "store.no_store",
            tr("{path} is no model store: it has no `manifests` folder", path=source),
            tr("name it with `--from DIR`; Ollama's is `~/.ollama/models` or $OLLAMA_MODELS"),
        )
    for name in [_find(theirs, text) for text in names] or list(theirs.names()):
        model = theirs.read(name)
        model.require_blobs()
        with ours.blobs.lock(exclusive=False):
            copied = sum(_take(theirs, ours, layer) for layer in set(model.all_layers))
            data = (theirs.folder / name.path).read_bytes()
            target = ours.find(name) or name
            write_bytes(ours.folder / target.path, data)
        yield Imported(ours.read(target), copied)


def _find(store: ManifestStore, text: str) -> ModelName:
    found = store.find(ModelName.parse(text))
    if found is None:
        raise NotFoundError(
            "model.not_found",
            tr("model '{name}' not found", name=text),
            tr("models there: {names}", names=", ".join(name.display for name in store.names())),
        )
    return found


def _take(theirs: ManifestStore, ours: ManifestStore, layer: Layer) -> int:
    """Bring one blob over; returns the bytes that were copied."""
    blob = Blob(layer.digest, layer.size)
    if ours.blobs.has(blob):
        return 0
    path = theirs.blobs.path(layer.digest)
    found = "sha256:" + sha256_file(path)
    if found != layer.digest:
        raise ProofError(
            "store.damaged_blob",
            tr("{path} is damaged: its digest is {found}", path=path, found=found),
            tr("pull that model again with the program that stored it"),
        )
    return 0 if ours.blobs.link_or_copy(path, blob) else layer.size
