"""The file to quantise: whole, or in several parts, and as its manifest says."""

from __future__ import annotations

import re
from pathlib import Path

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, read_manifest, verify_files
from slipway.export.convert import GGUF_NAME

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def read_source(folder: Path, *, allow_quantised: bool) -> Manifest:
    """The manifest of a GGUF artefact; of a quantised one where that is allowed.

    Raises:
        NotFoundError, InputError: no such artefact, or it is quantised already.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "quant":
        return read_manifest(folder, kind="gguf")
    if not allow_quantised:
        raise InputError(
            "quantize.source_quantised",
            tr(
                "{path} is quantised already, to {type}: each rounding adds to the loss",
                path=str(folder),
                type=manifest.config["type"].value,
            ),
            tr("quantise the float GGUF it was made from, or accept it with `--allow-requantize`"),
        )
    return manifest


def require_gguf(folder: Path, manifest: Manifest) -> Path:
    """The artefact's GGUF, checked against its digest.

    Raises:
        NotFoundError: the file is gone.
        InputError: the file is not what the manifest says.
    """
    return require_files(folder, manifest)[0]


def require_files(folder: Path, manifest: Manifest) -> list[Path]:
    """The artefact's GGUF files in order, checked against their digests; see `require_gguf`."""
    shards = sorted(f.path for f in manifest.files if _SHARD.search(f.path))
    paths = [folder / name for name in shards or [GGUF_NAME]]
    for path in paths:
        if not path.is_file():
            raise NotFoundError(
                "file.not_found",
                tr("{path} does not exist", path=str(path)),
                tr("make it again with `slipway convert`"),
            )
    if bad := verify_files(folder, manifest):
        raise InputError(
            "gguf.damaged",
            tr("{path} is damaged: it differs from its manifest", path=str(folder / bad[0])),
            tr("make it again with `slipway convert`"),
        )
    return paths
