"""A model from a registry into the store: its name appears when all of it is there and right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

from slipway.core.errors import AuthError, InputError, NotFoundError, ResourceError, SlipwayError
from slipway.core.files import write_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.blobs import Blob
from slipway.store.manifests import MANIFEST_TYPE, Layer, ManifestStore, parse_manifest
from slipway.store.registry.parts import PartedDownload
from slipway.store.registry.rules import Line, TransferRules
from slipway.store.registry.transport import Registry, again


def pull_model(
    name: str, *, home: Home, insecure: bool = False, rules: TransferRules | None = None
) -> Iterator[Line]:
    """Fetch a model, telling the progress in Ollama's lines.

    A pull that was killed goes on where it stopped when it is asked for again. Closing the
    iterator ends it.

    Args:
        name: `[http://][host/][namespace/]model[:tag]`; `hf.co/user/repo:quant` is such a name.
        insecure: accept plain HTTP and unknown certificates.

    Raises:
        SlipwayError: not a name, not there, not allowed, not reachable, or damaged on its way.
    """
    rules = rules or TransferRules()
    store = ManifestStore(home.models)
    with Registry(name, home=home, insecure=insecure, rules=rules) as registry:
        yield {"status": "pulling manifest"}
        data = _manifest(registry, rules)
        layers = _layers(data)
        while True:
            yield from _blobs(registry, store, layers, rules)
            with store.blobs.lock(exclusive=False):
                # a removal may have taken a blob that was here when we looked
                if all(store.blobs.has(_blob(layer)) for layer in layers):
                    yield {"status": "writing manifest"}
                    target = store.find(registry.name) or registry.name
                    write_bytes(store.folder / target.path, data)
                    break
    yield {"status": "success"}


def _manifest(registry: Registry, rules: TransferRules) -> bytes:
    path, headers = f"manifests/{registry.name.tag}", {"Accept": MANIFEST_TYPE}
    try:
        return again(rules, lambda: registry.call("GET", path, headers=headers))[1]
    except NotFoundError as error:
        raise NotFoundError(
            error.code,
            tr("pull model manifest: file does not exist"),
            tr("see whether {host} has a model of that name", host=registry.name.host),
        ) from error


def _layers(data: bytes) -> list[Layer]:
    try:
        config, layers = parse_manifest(json.loads(data))
    except (ValueError, KeyError, TypeError, SlipwayError) as error:
        raise InputError(
            "registry.bad_manifest",
            tr("the registry's manifest is not readable: {reason}", reason=str(error)),
        ) from error
    unique = {layer.digest: layer for layer in (*layers, config)}
    return list(unique.values())


def _blobs(
    registry: Registry, store: ManifestStore, layers: list[Layer], rules: TransferRules
) -> Iterator[Line]:
    missing = sum(layer.size for layer in layers if not store.blobs.has(_blob(layer)))
    store.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.folder).free
    if missing > free:
        raise ResourceError(
            "registry.no_space",
            tr("the model needs {needed} bytes, and {free} are free", needed=missing, free=free),
            tr("make room with `slipway rm NAME`"),
        )
    fetched = []
    for layer in layers:
        line = {
            "status": f"pulling {layer.digest.removeprefix('sha256:')[:12]}",
            "digest": layer.digest,
            "total": layer.size,
        }
        if store.blobs.has(_blob(layer)):
            yield {**line, "completed": layer.size}
            continue
        yield line
        _ask_size(registry, layer, rules)
        download = PartedDownload(registry, store.blobs, _blob(layer), rules)
        for done in download.run():
            yield {**line, "completed": done}
        fetched.append(download)
    yield {"status": "verifying sha256 digest"}
    for download in fetched:
        download.adopt()


def _ask_size(registry: Registry, layer: Layer, rules: TransferRules) -> None:
    """Find out before the download that the registry has the blob, with the size it stated."""
    try:
        answer, _ = again(rules, lambda: registry.call("HEAD", f"blobs/{layer.digest}"))
    except (AuthError, InputError):  # a storage whose signed addresses are good for GET alone
        return
    stated = answer.headers.get("content-length", "")
    if stated.isdigit() and int(stated) != layer.size:
        raise InputError(
            "registry.wrong_size",
            tr("{digest} has another size than its manifest says", digest=layer.digest),
        )


def _blob(layer: Layer) -> Blob:
    return Blob(layer.digest, layer.size)
