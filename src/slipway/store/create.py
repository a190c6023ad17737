"""Make a `name:tag` from a Modelfile: blobs first, the manifest last.

A kill at any moment leaves either the old name or the new one; at worst blobs that nobody refers
to, which the next removal of a model that shares them, or the next create, uses or removes.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError
from slipway.core.gguf import GgufHeader, read_gguf
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, Manifest, read_manifest
from slipway.core.paths import Home
from slipway.store import manifests as media
from slipway.store.adapter import adapter_layer
from slipway.store.blobs import BlobStore
from slipway.store.import_check import check_import
from slipway.store.manifests import Layer, ManifestStore, ModelManifest
from slipway.store.modelfile import Modelfile, parse_modelfile, read_modelfile
from slipway.store.names import ModelName
from slipway.store.quality import quality_beside
from slipway.store.template_kind import abilities, check_template

logger = logging.getLogger("slipway.store")

_SINGLE = (media.SYSTEM, media.TEMPLATE, media.MESSAGES)


@dataclass(slots=True)
class _Parts:
    """The layers of the model in the making."""

    model: Layer
    details: dict[str, Any]
    inherited: list[Layer] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)


def create_model(
    name: str,
    modelfile: Path | str,
    *,
    home: Home,
    lineage: dict[str, Any] | None = None,
) -> ModelManifest:
    """Create or replace a model of the store.

    Args:
        name: `[host/][namespace/]model[:tag]`.
        modelfile: path of a Modelfile, or its text. FROM may name a GGUF file, a folder that holds
            one GGUF (an artefact of `slipway convert` or `quantize`: its manifest is kept as the
            model's lineage), or a model of the store (its layers are inherited; new ones win).
            ADAPTER names a GGUF adapter, or the folder of one (`slipway convert RUN --adapter`).
            Relative paths start at the Modelfile's folder, for text at the current one.
        lineage: what the caller knows of the model's history, kept in the lineage layer as "chain".

    Raises:
        UsageError: a bad name.
        NotFoundError: the Modelfile or what FROM names does not exist.
        InputError: a bad Modelfile, GGUF or template; the message names file and line.
    """
    ModelName.parse(name)
    if isinstance(modelfile, Path):
        parsed, base = read_modelfile(modelfile), modelfile.parent
    else:
        parsed, base = parse_modelfile(modelfile), Path.cwd()
    return create_parsed(name, parsed, base, home=home, lineage=lineage)


def create_parsed(
    name: str,
    parsed: Modelfile,
    base: Path,
    *,
    home: Home,
    lineage: dict[str, Any] | None = None,
) -> ModelManifest:
    """As `create_model`, from a Modelfile that is parsed, or was never a file.

    Args:
        base: where relative paths start.
    """
    target = ModelName.parse(name)
    if parsed.template is not None:
        check_template(parsed.template, f"{parsed.source}:{parsed.template_line}")
    store = ManifestStore(home.models)
    with store.blobs.lock(exclusive=False):
        parts = _from(parsed, base, store)
        if parsed.projector is not None:
            parts.inherited = [x for x in parts.inherited if x.media_type != media.PROJECTOR]
            blob = store.blobs.put_file(parsed.projector)
            parts.inherited.append(Layer(media.PROJECTOR, blob.digest, blob.size))
        parts.details = {**parts.details, **parsed.accepted}
        if parsed.adapters:  # a card of the weights alone says nothing of the sum
            parts.inherited = [x for x in parts.inherited if x.media_type != media.QUALITY]
        parts.inherited += [
            adapter_layer(value, base, store.blobs, parts.details, f"{parsed.source}:{line}")
            for value, line in parsed.adapters
        ]
        if lineage is not None:
            parts.lineage = {**parts.lineage, "chain": lineage}
        if parsed.template is not None and "completion" in parts.details.get("capabilities", ()):
            known = ["completion", *abilities(parsed.template)]
            parts.details = {**parts.details, "capabilities": known}
        layers = _layers(parsed, parts, store.blobs)
        config = _put(store.blobs, media.CONFIG_TYPE, _json(_config(parts.details, layers)))
        return store.write(store.find(target) or target, config, layers)


def _from(parsed: Modelfile, base: Path, store: ManifestStore) -> _Parts:
    """Resolve FROM: a path when one is there or it looks like one, else a name."""
    path = base / Path(parsed.from_).expanduser()
    where = f"{parsed.source}:{parsed.from_line}"
    if path.is_dir():
        return _from_folder(path, store.blobs, where, parsed.template)
    if path.is_file():
        return _from_file(path, store.blobs, parsed.template)
    looks_like_path = parsed.from_.startswith((".", "/", "~")) or parsed.from_.lower().endswith(
        (".gguf", ".bin", ".safetensors")
    )
    found = None if looks_like_path else store.find(ModelName.parse(parsed.from_))
    if found is None:
        raise NotFoundError(
            "modelfile.from_not_found",
            tr("{where}: FROM names `{value}`, which does not exist", where=where, value=path)
            if looks_like_path
            else tr(
                "{where}: FROM names `{value}`, which is neither a file nor a model of the store",
                where=where,
                value=parsed.from_,
            ),
            tr("see the models with `slipway list`, or give the path of a GGUF file"),
        )
    model = store.read(found)
    model.require_blobs()
    kept = [
        layer for layer in model.layers if layer.media_type not in (media.PARAMS, media.LINEAGE)
    ]
    return _Parts(
        model.of_type(media.MODEL)[0],
        model.details,
        [layer for layer in kept if layer.media_type != media.MODEL],
        model.parameters,
        model.lineage,
    )


def _from_folder(folder: Path, blobs: BlobStore, where: str, template: str | None) -> _Parts:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".gguf" and p.is_file())
    if len(files) > 1 and not re.search(r"-00001-of-\d{5}\.gguf$", files[0].name):
        raise InputError(
            "modelfile.from_ambiguous",
            tr(
                "{where}: {folder} holds {count} GGUF files; name one: {names}",
                where=where,
                folder=folder,
                count=len(files),
                names=", ".join(p.name for p in files),
            ),
        )
    if not files:
        raise InputError(
            "modelfile.from_no_gguf",
            tr("{where}: {folder} holds no GGUF file", where=where, folder=folder),
            tr("convert the folder first: `slipway convert {folder}`", folder=folder),
        )
    return _from_file(files[0], blobs, template)


def _from_file(path: Path, blobs: BlobStore, template: str | None) -> _Parts:
    header = read_gguf(path)
    if (parts := int(header.values.get("split.count") or 0)) > 1:
        raise InputError(
            "modelfile.from_split",
            tr("{path} is one of {count} parts of a model", path=path, count=parts),
            tr("join them first: `slipway gguf join {path} WHOLE.gguf`", path=path),
        )
    artefact = _manifest_beside(path)
    ours = artefact is not None and path.name in {entry.path for entry in artefact.files}
    blob = blobs.put_file(path, link=ours)
    kept = quality_beside(path.parent, artefact.digest) if artefact and ours else None
    return _Parts(
        Layer(media.MODEL, blob.digest, blob.size),
        describe(header),
        inherited=[_put(blobs, media.QUALITY, kept)] if kept else [],
        lineage={"schema": 1, "artefact": _artefact(artefact)}
        if artefact and ours
        else _imported(path, header, template),
    )


def _imported(path: Path, header: GgufHeader, template: str | None) -> dict[str, Any]:
    """The lineage of a file of others: what looks wrong with it; empty when nothing does."""
    findings = [finding.as_json() for finding in check_import(header, template)]
    return {"schema": 1, "import": {"file": path.name, "findings": findings}} if findings else {}


def _manifest_beside(path: Path) -> Manifest | None:
    """The manifest of the artefact that a file lies in; None when it is no artefact of ours."""
    if not (path.parent / FILE_NAME).is_file():
        return None
    try:
        return read_manifest(path.parent)
    except InputError as error:  # other programs write files of this name too
        logger.warning("no lineage for %s: %s", path, error)
        return None


def _artefact(manifest: Manifest) -> dict[str, Any]:
    """The artefact's own record, as the lineage layer keeps it."""
    return asdict(manifest)


def describe(header: GgufHeader) -> dict[str, Any]:
    """The config blob's facts about a GGUF, in Ollama's names."""
    return {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": human_count(header.parameters),
        "file_type": header.file_type,
        "context_length": header.context_length,
        "embedding_length": header.embedding_length,
        "capabilities": capabilities(header),
    }


def capabilities(header: GgufHeader) -> list[str]:
    """What the model can do, read from its GGUF: embedding, rerank, or completion and more."""
    if header.is_reranker:
        return ["rerank"]
    if header.is_embedding:
        return ["embedding"]
    return ["completion", *abilities(header.chat_template)]


def human_count(count: int) -> str:
    """A number of weights for people: 134.52M, 7.6B, as Ollama writes it."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f}B"
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.2f}K" if count >= 1000 else str(count)


def _layers(parsed: Modelfile, parts: _Parts, blobs: BlobStore) -> list[Layer]:
    new: list[Layer] = []
    for media_type, text in ((media.TEMPLATE, parsed.template), (media.SYSTEM, parsed.system)):
        if text is not None:
            new.append(_put(blobs, media_type, text.encode()))
    if parsed.messages:
        new.append(_put(blobs, media.MESSAGES, _json(list(parsed.messages))))
    new.extend(_put(blobs, media.LICENSE, text.encode()) for text in parsed.licenses)
    replaced = {layer.media_type for layer in new if layer.media_type in _SINGLE}
    layers = [layer for layer in parts.inherited if layer.media_type not in replaced] + new
    parameters = {**parts.parameters, **parsed.parameters}
    if parameters:
        layers.append(_put(blobs, media.PARAMS, _json(parameters)))
    if parts.lineage:
        layers.append(_put(blobs, media.LINEAGE, _json(parts.lineage)))
    return [parts.model, *layers]


def _config(details: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    return {
        **details,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }


def _put(blobs: BlobStore, media_type: str, data: bytes) -> Layer:
    blob = blobs.put_bytes(data)
    return Layer(media_type, blob.digest, blob.size)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
