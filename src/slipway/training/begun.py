"""The adapter that a run goes on from: where it lies, and whether it is of this base."""

from __future__ import annotations

from pathlib import Path

from slipway.core.errors import ConflictError, InputError, NotFoundError
from slipway.core.files import sha256_file, sha256_json
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter_folder(path: Path) -> Path:
    """The PEFT folder that `adapter: path` means: itself, or the `adapter` of a finished run.

    Raises:
        InputError: it is neither.
    """
    for folder in (path, path / "adapter"):
        if all((folder / name).is_file() for name in _FILES):
            return folder
    raise InputError(
        "train.no_adapter",
        tr("{path} is neither an adapter nor a finished run with one", path=str(path)),
        tr("give the folder of a run or of an adapter"),
    )


def adapter_identity(path: Path, base: str) -> str:
    """Digest of the adapter's files.

    Args:
        base: digest of the base that training is to use.

    Raises:
        InputError: see `adapter_folder`.
        ConflictError: the adapter's run says that its base was another.
    """
    folder = adapter_folder(path)
    try:
        run = read_manifest(folder.parent, kind="run")
    except (NotFoundError, InputError):
        run = None  # an adapter from elsewhere: its shapes must do
    if run is not None and run.parents.get("base") != base:
        raise ConflictError(
            "train.adapter_of_other_base",
            tr("the adapter in {path} was trained on another base", path=str(folder)),
            tr("give the base that it was trained on as `model`"),
        )
    return "sha256:" + sha256_json({name: sha256_file(folder / name) for name in _FILES})
