"""A model of the store to a registry: blobs that are missing there, then the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

import httpx

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.catalogue import resolve_model
from slipway.store.manifests import MANIFEST_TYPE, Layer, ManifestStore, ModelManifest
from slipway.store.registry.rules import Line, TransferRules
from slipway.store.registry.transport import Registry, again

_PIECE_BYTES = 16 << 20


def push_model(
    name: str, *, home: Home, insecure: bool = False, rules: TransferRules | None = None
) -> Iterator[Line]:
    """Send a model, telling the progress in Ollama's lines.

    Args:
        name: a model of the store; its host and namespace say where it goes.
        insecure: accept plain HTTP and unknown certificates.

    Raises:
        SlipwayError: no such model, not allowed, not reachable.
    """
    rules = rules or TransferRules()
    with Registry(name, home=home, insecure=insecure, rules=rules) as registry:
        model = resolve_model(str(registry.name), home=home)
        yield {"status": "retrieving manifest"}
        unique = {layer.digest: layer for layer in (*model.layers, model.config)}
        for layer in unique.values():
            yield from _push_layer(registry, model, layer, rules)
        yield {"status": "pushing manifest"}
        data = (ManifestStore(home.models).folder / model.name.path).read_bytes()
        headers = {"Content-Type": MANIFEST_TYPE}
        again(
            rules,
            lambda: registry.call(
                "PUT", f"manifests/{model.name.tag}", content=data, headers=headers
            ),
        )
    yield {"status": "success"}


def _push_layer(
    registry: Registry, model: ModelManifest, layer: Layer, rules: TransferRules
) -> Iterator[Line]:
    line = {
        "status": f"pushing {layer.digest.removeprefix('sha256:')[:12]}",
        "digest": layer.digest,
        "total": layer.size,
    }
    yield line
    try:
        again(rules, lambda: registry.call("HEAD", f"blobs/{layer.digest}"))
    except NotFoundError:
        for done in _upload(registry, model, layer, rules):
            yield {**line, "completed": done}
    yield {**line, "completed": layer.size}


def _upload(
    registry: Registry, model: ModelManifest, layer: Layer, rules: TransferRules
) -> Iterator[int]:
    answer, _ = again(rules, lambda: registry.call("POST", "blobs/uploads/"))
    place = _place(registry, answer)
    with model.store.path(layer.digest).open("rb") as file:
        sent = 0
        while piece := file.read(_PIECE_BYTES):
            headers = {
                "Content-Range": f"{sent}-{sent + len(piece) - 1}",
                "Content-Type": "application/octet-stream",
            }
            place = _send(registry, rules, place, piece, headers)
            sent += len(piece)
            yield sent
    parts = urlsplit(place)
    query = "&".join(filter(None, (parts.query, urlencode({"digest": layer.digest}))))
    final = urlunsplit((*parts[:3], query, ""))
    again(rules, lambda: registry.call("PUT", final))


def _send(
    registry: Registry, rules: TransferRules, place: str, piece: bytes, headers: dict[str, str]
) -> str:
    answer, _ = again(rules, lambda: registry.call("PATCH", place, content=piece, headers=headers))
    return _place(registry, answer, place)


def _place(registry: Registry, answer: httpx.Response, before: str = "") -> str:
    """Where the next request of an upload goes."""
    named = answer.headers.get("docker-upload-location") or answer.headers.get("location")
    if not named and not before:
        raise InputError("registry.no_upload", tr("the registry named no place for the upload"))
    return urljoin(registry.base, str(named or before))
