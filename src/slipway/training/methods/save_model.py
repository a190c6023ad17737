"""A trained model as a Hugging Face folder: the base's files, with other numbers in its weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from slipway.core.files import write_bytes
from slipway.core.manifest import FILE_NAME

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SHARD = "4GB"


def save_model(
    model: Any, base: Path, folder: Path, whole: dict[str, Any] | None = None
) -> list[str]:
    """Write the model's weights in the layout and the number formats of its base.

    Config, tokenizer and template are copied byte for byte; nothing is rewritten that was not
    trained. Weights go shard by shard, so that no second copy of the model is in memory.

    Args:
        whole: the model's tensors, where the model itself has only parts of them.

    Returns:
        The names of the written files.
    """
    shards = sorted(base.glob("*.safetensors"))
    trained = whole if whole is not None else dict(model.state_dict())
    if not _written_as_base(trained, shards, folder):
        dtype = getattr(model.config, "dtype", None) or torch.float32
        if whole is None:
            model.to(dtype)
        state = None if whole is None else {name: part.to(dtype) for name, part in whole.items()}
        model.save_pretrained(str(folder), state_dict=state, max_shard_size=_SHARD)
    for path in sorted(base.iterdir()):
        if path.is_file() and path.name != FILE_NAME and path.suffix not in _WEIGHTS:
            if path.name.endswith(".index.json") and not shards:
                continue
            shutil.copyfile(path, folder / path.name)
    return sorted(path.name for path in folder.iterdir())


def _written_as_base(trained: dict[str, Any], shards: list[Path], folder: Path) -> bool:
    """Write each of the base's shards anew; False where its names are not the model's."""
    from safetensors import safe_open
    from safetensors.torch import save

    names: list[str] = []
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            names += list(file.keys())
    if not names or any(name not in trained for name in names):
        return False
    for shard in shards:
        tensors = {}
        with safe_open(shard, framework="pt") as file:
            metadata = file.metadata()
            for name in file.keys():  # noqa: SIM118 - not a dict
                like = file.get_tensor(name)
                tensors[name] = trained[name].detach().to("cpu", like.dtype).contiguous()
        write_bytes(folder / shard.name, save(tensors, metadata))
    return True
