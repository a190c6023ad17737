"""What is in the model store: list, resolve, remove, verify."""

from __future__ import annotations

from slipway.core.errors import NotFoundError, SlipwayError, nearest
from slipway.core.files import sha256_file, write_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.manifests import ManifestStore, ModelManifest
from slipway.store.names import ModelName


def list_models(home: Home, *, problems: list[SlipwayError] | None = None) -> list[ModelManifest]:
    """The models of the store, newest first.

    Args:
        problems: takes the errors of manifests that cannot be read; without it the first raises.
    """
    store = ManifestStore(home.models)
    found = []
    for name in store.names():
        try:
            found.append(store.read(name))
        except SlipwayError as error:
            if problems is None:
                raise
            problems.append(error)
    return sorted(found, key=lambda model: (-model.modified_at.timestamp(), model.name.display))


def resolve_model(name: str, *, home: Home) -> ModelManifest:
    """The model of that name, whatever the case, with all its blobs there.

    Raises:
        UsageError: not a name.
        NotFoundError: no such model; the hint names the nearest.
        ConflictError: a blob is missing.
    """
    store = ManifestStore(home.models)
    found = store.find(ModelName.parse(name))
    if found is None:
        known = [n.display for n in store.names()]
        close = nearest(name, known)
        raise NotFoundError(
            "model.not_found",
            tr("model '{name}' not found", name=name),
            tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
            if close
            else tr("see the models with `slipway list`; make one with `slipway create`"),
        )
    model = store.read(found)
    model.require_blobs()
    return model


def copy_model(source: str, destination: str, *, home: Home) -> ModelManifest:
    """Give a model a second name; the blobs are shared. A model of that name is replaced.

    Raises:
        UsageError: one of them is no name.
        NotFoundError: no such source.
    """
    store = ManifestStore(home.models)
    target = ModelName.parse(destination)
    with store.blobs.lock(exclusive=False):
        model = resolve_model(source, home=home)
        target = store.find(target) or target
        if target != model.name:
            data = (store.folder / model.name.path).read_bytes()
            write_bytes(store.folder / target.path, data)
        return store.read(target)


def remove_model(name: str, *, home: Home) -> int:
    """Remove a name, then the blobs that no other name uses.

    The name goes first, so that a kill in between leaves unused blobs and never a name without
    its blobs. When some other manifest cannot be read, its blobs are unknown, so none is deleted.

    Returns:
        bytes freed.
    """
    store = ManifestStore(home.models)
    with store.blobs.lock(exclusive=True):
        found = store.find(ModelName.parse(name))
        if found is None:
            raise NotFoundError(
                "model.not_found",
                tr("model '{name}' not found", name=name),
                tr("see the models with `slipway list`"),
            )
        try:
            candidates = {layer.digest for layer in store.read(found).all_layers}
        except SlipwayError:
            candidates = set()
        store.delete(found)
        problems: list[SlipwayError] = []
        used = {
            layer.digest
            for model in list_models(home, problems=problems)
            for layer in model.all_layers
        }
        if problems:
            return 0
        return sum(store.blobs.remove(digest) for digest in sorted(candidates - used))


def verify_model(name: str, *, home: Home) -> list[str]:
    """The digests of blobs whose content no longer matches; empty when all is well."""
    model = resolve_model(name, home=home)
    return [
        layer.digest
        for layer in model.all_layers
        if "sha256:" + sha256_file(model.store.path(layer.digest)) != layer.digest
    ]
