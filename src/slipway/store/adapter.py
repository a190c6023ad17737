"""ADAPTER of a Modelfile: a GGUF adapter that the engine adds to the weights as it loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME
from slipway.store import manifests as media
from slipway.store.blobs import BlobStore
from slipway.store.gguf import read_gguf
from slipway.store.manifests import Layer


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
