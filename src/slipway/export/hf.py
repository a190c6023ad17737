"""What export needs of a Hugging Face folder: its tokenizer, and whether its files are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, missing_extra
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, describe_files, files_digest, read_manifest
from slipway.export.shards import read_header


def load_tokenizer(model_dir: Path) -> Any:
    """The folder's tokenizer, from local files only and without running code from the folder.

    Raises:
        ResourceError: `transformers` is not installed.
        InputError: the folder holds no readable tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    try:
        return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "model.bad_tokenizer",
            tr("{folder} holds no readable tokenizer: {reason}", folder=model_dir, reason=error),
        ) from error


def require_whole(model_dir: Path) -> None:
    """Check that the folder is a model and that no weight file is cut short.

    Only headers are read: a safetensors file says how long it must be.

    Raises:
        NotFoundError: no such folder, or no config.json or weights in it.
        InputError: a weight file is missing, truncated or malformed; the message names it.
    """
    if not (model_dir / "config.json").is_file():
        raise NotFoundError(
            "model.not_found",
            tr("{folder} is no model folder: it has no config.json", folder=str(model_dir)),
            tr("give the folder that `slipway merge` or `slipway pull` made"),
        )
    weights = sorted(model_dir.glob("*.safetensors"))
    for index in model_dir.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        weights = sorted({*weights, *(model_dir / name for name in named)})
    if not weights and not list(model_dir.glob("*.bin")):
        raise NotFoundError(
            "model.no_weights",
            tr("{folder} holds no weights (*.safetensors)", folder=str(model_dir)),
        )
    for path in weights:
        read_header(path)


def parent_of(model_dir: Path) -> dict[str, str]:
    """The lineage entry of a model folder: its kind (or "base") and its digest.

    A folder without manifest (one that Slipway did not make) is digested here, which reads it all.
    """
    if (model_dir / FILE_NAME).is_file():
        manifest = read_manifest(model_dir)
        return {manifest.kind: manifest.digest}
    return {"base": files_digest(describe_files(model_dir))}
