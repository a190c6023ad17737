"""Manifests: which blobs make up a model, laid out on disk exactly as Ollama's.

`manifests/<host>/<namespace>/<model>/<tag>` is a Docker image manifest: a config blob and layers,
each with media type, digest and size. Ollama can read our store and we can read Ollama's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, InputError, SlipwayError, from_os_error
from slipway.core.files import write_bytes
from slipway.core.i18n import tr
from slipway.store.blobs import BlobStore, check_digest
from slipway.store.names import ModelName

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL = "application/vnd.ollama.image.model"
PROJECTOR = "application/vnd.ollama.image.projector"
ADAPTER = "application/vnd.ollama.image.adapter"
TEMPLATE = "application/vnd.ollama.image.template"
SYSTEM = "application/vnd.ollama.image.system"
PARAMS = "application/vnd.ollama.image.params"
MESSAGES = "application/vnd.ollama.image.messages"
LICENSE = "application/vnd.ollama.image.license"
LINEAGE = "application/vnd.slipway.lineage+json"
QUALITY = "application/vnd.slipway.quality+json"

_MAX_TEXT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model: media type, digest "sha256:<hex>", size in bytes."""

    media_type: str
    digest: str
    size: int

    def as_json(self) -> dict[str, object]:
        """The layer as manifests write it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class ModelManifest:
    """A model of the store; its texts are read from their blobs when asked for.

    Attributes:
        name: complete name, in the case in which it is stored.
        digest: SHA-256 of the manifest file as bare hex; the model's ID.
        config: the config layer.
        layers: the other layers, in order.
        modified_at: when the name was last written, UTC.
        store: where the blobs are.
        plus: models whose adapters were added to it for a request (see `add_adapters`).
        files: the manifest files it was read from, each with inode, size and time in ns.
    """

    name: ModelName
    digest: str
    config: Layer
    layers: tuple[Layer, ...]
    modified_at: datetime
    store: BlobStore
    plus: tuple[ModelName, ...] = ()
    files: tuple[tuple[Path, tuple[int, int, int]], ...] = ()

    @property
    def display(self) -> str:
        """The name as it was asked for: `model:tag`, `+` the names of added adapters."""
        return "+".join(name.display for name in (self.name, *self.plus))

    def is_current(self) -> bool:
        """Whether its manifests are still the files that were read, and its weights are there."""
        try:
            return all(_stamp(path) == stamp for path, stamp in self.files) and (
                self.gguf_path.stat().st_size == self.of_type(MODEL)[0].size
            )
        except OSError:
            return False

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """The config and the layers."""
        return (self.config, *self.layers)

    def of_type(self, media_type: str) -> tuple[Layer, ...]:
        """The layers of one media type."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)

    @property
    def gguf_path(self) -> Path:
        """The GGUF blob.

        Raises:
            InputError: the model has no GGUF layer.
        """
        layers = self.of_type(MODEL)
        if not layers:
            raise InputError("store.no_model", tr("{name} holds no GGUF", name=self.name))
        return self.store.path(layers[0].digest)

    @property
    def adapter_paths(self) -> tuple[Path, ...]:
        """The GGUF adapters that are added to the weights when the model is loaded."""
        return tuple(self.store.path(layer.digest) for layer in self.of_type(ADAPTER))

    @property
    def projector_path(self) -> Path | None:
        """The GGUF that turns pictures into embeddings, when the model has one."""
        layers = self.of_type(PROJECTOR)
        return self.store.path(layers[0].digest) if layers else None

    @cached_property
    def details(self) -> dict[str, Any]:
        """The config blob: model_format, model_family, model_type, file_type, context_length, …"""
        value = self._json(self.config)
        return value if isinstance(value, dict) else {}

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Options set by PARAMETER."""
        merged: dict[str, Any] = {}
        for layer in self.of_type(PARAMS):
            value = self._json(layer)
            merged |= value if isinstance(value, dict) else {}
        return merged

    @cached_property
    def system(self) -> str:
        """SYSTEM's text, or empty."""
        return self._last_text(SYSTEM)

    @cached_property
    def template(self) -> str:
        """TEMPLATE's text, or empty when the GGUF's own template is used."""
        return self._last_text(TEMPLATE)

    @cached_property
    def messages(self) -> list[dict[str, str]]:
        """MESSAGE lines as {"role", "content"}."""
        layers = self.of_type(MESSAGES)
        value = self._json(layers[-1]) if layers else []
        return value if isinstance(value, list) else []

    @cached_property
    def licenses(self) -> list[str]:
        """LICENSE texts."""
        return [self._text(layer) for layer in self.of_type(LICENSE)]

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """What the model was made from, as far as Slipway made it; else empty."""
        layers = self.of_type(LINEAGE)
        value = self._json(layers[-1]) if layers else {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def quality(self) -> dict[str, Any]:
        """The quality card of `slipway quality`, when there is one; else empty."""
        layers = self.of_type(QUALITY)
        value = self._json(layers[-1]) if layers else {}
        return value if isinstance(value, dict) else {}

    def require_blobs(self) -> None:
        """Check that every blob is there with its size (content: see `verify_model`).

        Raises:
            ConflictError: one is missing or cut short.
        """
        for layer in self.all_layers:
            path = self.store.path(layer.digest)
            if not path.is_file() or path.stat().st_size != layer.size:
                raise ConflictError(
                    "store.blob_missing",
                    tr(
                        "{name}: blob {digest} is missing or damaged",
                        name=self.name,
                        digest=layer.digest,
                    ),
                    tr(
                        "create or pull the model again: `slipway create {name} -f Modelfile`",
                        name=self.name,
                    ),
                )

    def _last_text(self, media_type: str) -> str:
        layers = self.of_type(media_type)
        return self._text(layers[-1]) if layers else ""

    def _text(self, layer: Layer) -> str:
        path = self.store.path(layer.digest)
        if layer.size > _MAX_TEXT_BYTES:
            raise InputError(
                "store.layer_too_large", tr("{path} is too large for a text layer", path=path)
            )
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise from_os_error(error, path) from error

    def _json(self, layer: Layer) -> Any:
        try:
            return json.loads(self._text(layer))
        except ValueError as error:
            path = self.store.path(layer.digest)
            raise InputError(
                "store.bad_layer", tr("{path} is not valid JSON: {reason}", path=path, reason=error)
            ) from error


class ManifestStore:
    """The names of a model store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "manifests"
        self.blobs = BlobStore(root)

    def find(self, name: ModelName) -> ModelName | None:
        """The stored name that equals `name` whatever the case, or None."""
        if (self.folder / name.path).is_file():
            return name
        return next((known for known in self.names() if known.folded == name.folded), None)

    def names(self) -> Iterator[ModelName]:
        """Every stored name, sorted."""
        for path in sorted(self.folder.glob("*/*/*/*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            host, namespace, model, tag = path.relative_to(self.folder).parts
            try:
                yield ModelName.parse(f"{host}/{namespace}/{model}:{tag}")
            except SlipwayError:
                continue  # a stray file of somebody else's

    def read(self, name: ModelName) -> ModelManifest:
        """Read a manifest.

        Raises:
            NotFoundError: no such name.
            InputError: the file is not a manifest.
        """
        path = self.folder / name.path
        try:
            stamp = _stamp(path)
            data = path.read_bytes()
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError as error:
            raise from_os_error(error, path) from error
        try:
            raw = json.loads(data)
            config, layers = parse_manifest(raw)
        except (ValueError, KeyError, TypeError, SlipwayError) as error:
            raise InputError(
                "store.bad_manifest",
                tr(
                    "{path} is not a readable manifest: {reason}", path=str(path), reason=str(error)
                ),
                tr("remove the name with `slipway rm {name}`", name=name),
            ) from error
        return ModelManifest(
            name,
            hashlib.sha256(data).hexdigest(),
            config,
            layers,
            modified,
            self.blobs,
            files=((path, stamp),),
        )

    def write(self, name: ModelName, config: Layer, layers: list[Layer]) -> ModelManifest:
        """Point `name` at blobs that are stored already; the last step of making a model."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.as_json(),
            "layers": [layer.as_json() for layer in layers],
        }
        data = json.dumps(value, separators=(",", ":")).encode()
        write_bytes(self.folder / name.path, data)
        return self.read(name)

    def delete(self, name: ModelName) -> None:
        """Remove a name and the folders it leaves empty."""
        path = self.folder / name.path
        try:
            path.unlink(missing_ok=True)
            for parent in list(path.parents)[:3]:
                if any(parent.iterdir()):
                    break
                parent.rmdir()
        except OSError as error:
            raise from_os_error(error, path) from error


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced."""
    found = path.stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def parse_manifest(raw: dict[str, Any]) -> tuple[Layer, tuple[Layer, ...]]:
    """The config and the layers of a manifest, digests and sizes checked.

    Raises:
        KeyError, TypeError, ValueError, InputError: it is not a manifest.
    """
    config = _layer(raw["config"])
    layers = tuple(_layer(layer) for layer in raw["layers"])
    for layer in (config, *layers):
        check_digest(layer.digest)
        if layer.size < 0:
            raise ValueError(f"size {layer.size}")
    return config, layers


def _layer(raw: dict[str, Any]) -> Layer:
    return Layer(str(raw["mediaType"]), str(raw["digest"]), int(raw["size"]))
