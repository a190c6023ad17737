"""A model folder from a hub: which files are needed, each fetched and verified."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from slipway.core.download import download
from slipway.core.errors import InputError, ProofError, ResourceError
from slipway.core.files import write_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.pull.hubs import Hub, HubFile, HubModel, fetch_bytes, read_model
from slipway.store.pull.reporting import Progress

_SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_INDEX = "model.safetensors.index.json"
_FOLDERS = ("", "1_Pooling")  # sentence-transformers keeps the pooling in a folder
_ROOM = 1.05
_MAX_SMALL_BYTES = 100 * 10**6


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
    model = read_model(hub, model_id)
    files = needed(model)
    progress.total = sum(file.size for file in files)
    cache = home.cache / "pull" / f"{hub}--{model_id.replace('/', '--')}--{model.revision[:12]}"
    _require_space(home, cache, progress.total)
    for file in files:
        _fetch(file, cache / file.path, progress)
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (cache / file.path).replace(target)
    shutil.rmtree(cache, ignore_errors=True)
    return {"source": model.url, "hub": hub, "model": model_id, "revision": model.revision}


def needed(model: HubModel) -> list[HubFile]:
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


def _fetch(file: HubFile, target: Path, progress: Progress) -> None:
    if file.sha256:
        download(file.url, target, sha256=file.sha256, size=file.size, on_progress=progress.bytes)
    elif file.git_sha1:
        _fetch_git_blob(file, target, progress)
    else:
        raise ProofError(
            "pull.no_digest",
            tr("the hub states no digest for {url}, so it cannot be verified", url=file.url),
            tr("choose another hub or mirror"),
        )
    progress.file_done(file.size)


def _fetch_git_blob(file: HubFile, target: Path, progress: Progress) -> None:
    """A small file, fetched in one go; its digest is the name that git gives to its content."""
    if target.is_file() and git_blob_sha1(target.read_bytes()) == file.git_sha1:
        return
    data = fetch_bytes(file.url, limit=_MAX_SMALL_BYTES)
    if git_blob_sha1(data) != file.git_sha1:
        raise ProofError(
            "download.wrong_digest",
            tr("{url} arrived with another digest than the hub states", url=file.url),
            tr("run the command again; if it repeats, choose another mirror"),
        )
    write_bytes(target, data)
    progress.bytes(file.size, file.size)


def git_blob_sha1(data: bytes) -> str:
    """The SHA-1 that git gives to a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
