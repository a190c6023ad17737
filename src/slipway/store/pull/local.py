"""A model folder that is already on this machine: checked and registered, weights not copied."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.i18n import Text, tr

_LINKED = (".safetensors",)
_COPIED = (".json", ".jinja", ".txt", ".model")


def local_name(path: Path) -> str:
    """The name under which a local folder is registered: its own, and a mark of its place."""
    mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return f"local--{path.resolve().name}--{mark}"


def build_from_local(path: Path, folder: Path) -> dict[str, Any]:
    """Fill `folder` with copies of the small files of `path` and links to its weights.

    Returns:
        notes for the manifest: the place, and a mark of each file to see later changes.

    Raises:
        InputError: something a base model needs is missing or unreadable.
    """
    path = path.resolve()
    check_model_folder(path)
    for file in source_files(path):
        target = folder / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in _LINKED:
            target.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, target)
    return {"source": str(path), "marks": marks(path)}


def source_files(path: Path) -> list[Path]:
    """The files of a model folder that make the model."""
    own = [*path.iterdir(), *(path / "1_Pooling").glob("*")]
    return sorted(
        file
        for file in own
        if file.is_file() and file.suffix in _LINKED + _COPIED and file.name != "manifest.json"
    )


def marks(path: Path) -> dict[str, list[int]]:
    """File -> [bytes, modified at ns]: whether a registered folder has changed since."""
    return {
        str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns]
        for file in source_files(path)
    }


def check_model_folder(path: Path) -> None:
    """Refuse a folder that is not a model in Hugging Face's layout.

    Raises:
        InputError: naming what is missing.
    """
    config = path / "config.json"
    if not config.is_file():
        raise _unfit(path, tr("there is no config.json"))
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        reason = tr("config.json has no readable `model_type` ({reason})", reason=str(error))
        raise _unfit(path, reason) from error
    if not any(path.glob("*.safetensors")):
        raise _unfit(path, tr("there are no weights in safetensors format"))
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = tr("{file} is not readable: {reason}", file=index.name, reason=str(error))
            raise _unfit(path, reason) from error
        if lost := sorted(shard for shard in shards if not (path / shard).is_file()):
            raise _unfit(path, tr("weights are missing: {files}", files=", ".join(lost)))
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise _unfit(path, tr("there is no tokenizer.json ({kind} model)", kind=kind))


def _unfit(path: Path, reason: Text) -> InputError:
    return InputError(
        "pull.unfit_folder",
        tr("{path} is not a usable model folder: {reason}", path=str(path), reason=reason),
        tr("it needs config.json, *.safetensors and tokenizer.json"),
    )
