"""ADAPTER of a Modelfile: a GGUF adapter that the engine adds to the weights as it loads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.gguf import read_gguf
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME
from slipway.store import manifests as media
from slipway.store.blobs import BlobStore
from slipway.store.manifests import Layer, ModelManifest


def adapter_layer(
    value: str, base: Path, blobs: BlobStore, details: dict[str, Any], where: str
) -> Layer:
    """Store what an ADAPTER line names.

    Args:
        value: a GGUF adapter, or a folder that holds one.
        base: where relative paths start.
        details: the config facts of the model it is added to.
        where: file and line of the Modelfile, for errors.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is no GGUF adapter, or one of another architecture.
    """
    path = base / Path(value).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise InputError(
                "modelfile.adapter_not_gguf",
                tr("{where}: ADAPTER needs a folder with one GGUF adapter", where=where),
                tr("make one with `slipway convert RUN --adapter`"),
            )
        path = files[0]
    if not path.is_file():
        raise NotFoundError(
            "modelfile.adapter_not_found",
            tr("{where}: ADAPTER names `{value}`, which does not exist", where=where, value=path),
            tr("make one with `slipway convert RUN --adapter`"),
        )
    header = read_gguf(path)
    if header.values.get("general.type") != "adapter":
        raise InputError(
            "modelfile.adapter_not_gguf",
            tr("{where}: {path} is no GGUF adapter", where=where, path=path),
            tr("make one with `slipway convert RUN --adapter`"),
        )
    family = details.get("model_family", "")
    if header.architecture != family:
        raise InputError(
            "modelfile.adapter_of_another",
            tr(
                "{where}: the adapter is for `{adapter}` models, but the model is `{model}`",
                where=where,
                adapter=header.architecture,
                model=family,
            ),
        )
    blob = blobs.put_file(path, link=(path.parent / FILE_NAME).is_file())
    return Layer(media.ADAPTER, blob.digest, blob.size)


def add_adapters(model: ModelManifest, others: Sequence[ModelManifest]) -> ModelManifest:
    """The model with the adapters of other models on top of its own: `base+tuned` in a request.

    Raises:
        UsageError: one of the others has no adapter, or is of another architecture.
    """
    layers = list(model.layers)
    for other in others:
        adapters = other.of_type(media.ADAPTER)
        if not adapters:
            raise UsageError(
                "model.no_adapter",
                tr("{name} has no adapter that could be added", name=other.name),
                tr("make one with `slipway ship RUN --unmerged --as name:tag`"),
            )
        mine, theirs = (each.details.get("model_family", "") for each in (model, other))
        if mine != theirs:
            raise UsageError(
                "model.adapter_of_another",
                tr(
                    "the adapter of {name} is for `{adapter}` models, but {model} is `{family}`",
                    name=other.name,
                    adapter=theirs,
                    model=model.name,
                    family=mine,
                ),
            )
        layers += [layer for layer in adapters if layer not in layers]
    return replace(
        model,
        layers=tuple(layers),
        plus=(*model.plus, *(other.name for other in others)),
        files=(*model.files, *(file for other in others for file in other.files)),
    )
