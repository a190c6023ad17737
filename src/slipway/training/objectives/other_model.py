"""A model besides the one that is trained: a reference, given as a model folder or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME, read_manifest
from slipway.datasets import load_tokenizer
from slipway.training import lora
from slipway.training.folder import ADAPTER, MODEL
from slipway.training.model import load_base


def load_other(path: Path, base: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A frozen model in evaluation mode that reads the same tokens as `base`.

    Args:
        path: a Hugging Face folder, a finished run, or an adapter folder made for `base`.

    Raises:
        NotFoundError: the folder of a run's base is gone.
        InputError: there is no model, or its vocabulary is another one.
    """
    folder, adapter = _parts(path, base)
    if folder != base:
        require_same_tokens(folder, base)
    model = load_base(folder, dtype, device)
    if adapter is not None:
        lora.load_adapter(model, adapter)
        model.requires_grad_(False)
    return model.eval()


def _parts(path: Path, base: Path) -> tuple[Path, Path | None]:
    """Model folder, and adapter folder if there is one."""
    if (path / lora.CONFIG_FILE).is_file():
        return base, path
    if not (path / FILE_NAME).is_file():
        return path, None
    manifest = read_manifest(path)
    if manifest.kind != "run":
        return path, None
    if (path / MODEL).is_dir():
        return path / MODEL, None
    folder = Path(str(manifest.notes.get("base_path", base)))
    if not folder.is_dir():
        raise NotFoundError(
            "model.not_found",
            tr("the model folder {path} does not exist", path=str(folder)),
            tr("give the base that the run in {path} was trained on", path=str(path)),
        )
    return folder, path / ADAPTER


def require_same_tokens(folder: Path, base: Path) -> None:
    """Refuse two models that read different tokens.

    Raises:
        InputError: naming both.
    """
    theirs, ours = (load_tokenizer(at, chat=False).get_vocab() for at in (folder, base))
    if theirs != ours:
        raise InputError(
            "train.other_tokens",
            tr("{path} and {base} do not have the same tokens", path=str(folder), base=str(base)),
            tr("a reference must read the same tokens as the model; give one of its family"),
        )
