"""A model folder from a hub: which files are needed, each fetched and verified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, ResourceError
from slipway.core.hubs import Hub, HubFile, HubRepo, fetch_file, read_repo
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.pull.reporting import Progress

_SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_INDEX = "model.safetensors.index.json"
_FOLDERS = ("", "1_Pooling")  # sentence-transformers keeps the pooling in a folder
_ROOM = 1.05


def build_from_hub(
    hub: Hub, model_id: str, folder: Path, home: Home, progress: Progress
) -> dict[str, Any]:
    """Fill `folder` with the model's weights, tokenizer and configuration.

    Files gather in the cache, so that a killed pull goes on where it was.

    Returns:
        notes for the manifest: where it comes from.

    Raises:
        SlipwayError: hub not reachable, no such model, no safetensors, a digest that is wrong or
            missing, no space.
    """
    model = read_repo(hub, "model", model_id)
    files = needed(model)
    progress.total = sum(file.size for file in files)
    cache = home.cache / "pull" / f"{hub}--{model_id.replace('/', '--')}--{model.revision[:12]}"
    _require_space(home, cache, progress.total)
    for file in files:
        fetch_file(hub, file, cache / file.path, on_progress=progress.bytes)
        progress.file_done(file.size)
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (cache / file.path).replace(target)
    shutil.rmtree(cache, ignore_errors=True)
    return {"source": model.url, "hub": hub, "model": model_id, "revision": model.revision}


def needed(model: HubRepo) -> list[HubFile]:
    """The files to fetch: weights as safetensors, configuration, tokenizer, chat template.

    Raises:
        InputError: the model has no config.json or no weights as safetensors.
    """
    near = [file for file in model.files if file.path.rpartition("/")[0] in _FOLDERS]
    small = [file for file in near if file.path.endswith(_SMALL_SUFFIXES)]
    weights = [file for file in near if file.path.endswith(".safetensors") and "/" not in file.path]
    sharded = any(file.path == _INDEX for file in small)
    weights = [file for file in weights if _is_weight(file.path, sharded=sharded)]
    if not weights or not any(file.path == "config.json" for file in small):
        raise InputError(
            "pull.no_safetensors",
            tr("{model} has no config.json with safetensors weights", model=model.url),
            tr("choose a model in safetensors format, not GGUF, AWQ-only or PyTorch .bin"),
        )
    return sorted([*small, *weights], key=lambda file: file.size)


def _is_weight(path: str, *, sharded: bool) -> bool:
    """Some models also carry their weights in a second layout (`consolidated.safetensors`)."""
    return path.startswith("model-") if sharded else path == "model.safetensors"


def _require_space(home: Home, cache: Path, total: int) -> None:
    home.root.mkdir(parents=True, exist_ok=True)
    here = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    free = shutil.disk_usage(home.root).free
    if (wanted := int((total - here) * _ROOM)) > free:
        raise ResourceError(
            "disk.full",
            tr(
                "the model needs {needed} MB, but {path} has {free} MB free",
                needed=wanted // 10**6,
                path=str(home.root),
                free=free // 10**6,
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk"),
        )
