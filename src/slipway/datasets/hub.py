"""Datasets of Hugging Face and ModelScope: fetched once, verified, then read from the cache.

Below `<home>/cache/datasets/<hub>--<owner>--<name>/` lie folders of revisions, with the files under
their own paths, and `<hash of what was asked>.json`, which names a revision and its files. It is
written last, so whatever it names is whole; the next use asks no hub.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, ResourceError
from slipway.core.files import locked, sha256_json, write_json
from slipway.core.hubs import HUB_NAMES, Hub, HubFile, HubRepo, fetch_file, read_repo
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.datasets.hub_files import Choice, choose_files, head_of, packed

OnFetch = Callable[[str, int, int], None]
"""Progress of a download: the dataset, bytes here so far, bytes in all."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_README = "README.md"
_ROOM = 1.05


def hub_dataset(
    hub: Hub, repo_id: str, choice: Choice, revision: str = "", on_fetch: OnFetch | None = None
) -> tuple[Path, ...]:
    """The files of a split, from the cache or from the hub.

    Args:
        revision: branch, tag or commit; default: the main branch, as it was when first fetched.

    Raises:
        SlipwayError: no such dataset, subset or split; the hub cannot be reached or wants a token;
            a digest that is wrong; no space.
    """
    return _fetched(hub, repo_id, revision, asdict(choice), on_fetch, choice)


def hub_file(hub: Hub, repo_id: str, path: str, on_fetch: OnFetch | None = None) -> Path:
    """One file of a dataset repository, from the cache or from the hub.

    Raises:
        SlipwayError: see `hub_dataset`.
    """
    return _fetched(hub, repo_id, "", {"path": path}, on_fetch, path)[0]


def _fetched(
    hub: Hub,
    repo_id: str,
    revision: str,
    asked: dict[str, str],
    on_fetch: OnFetch | None,
    wanted: Choice | str,
) -> tuple[Path, ...]:
    if not _ID.fullmatch(repo_id):
        raise InputError(
            "data.bad_hub_id",
            tr("`{name}` is not the name of a dataset on {hub}", name=repo_id, hub=HUB_NAMES[hub]),
            tr("write `owner/name`"),
        )
    folder = Home.current().cache / "datasets" / f"{hub}--{repo_id.replace('/', '--')}"
    record = folder / f"{sha256_json([revision, asked])[:16]}.json"
    if found := _recorded(record):
        return found
    with locked(record):
        if found := _recorded(record):  # another process fetched it while this one waited
            return found
        if os.environ.get("HF_HUB_OFFLINE", "") == "1":
            raise NotFoundError(
                "data.offline",
                tr("the dataset {name} is not in the cache, and HF_HUB_OFFLINE=1", name=repo_id),
                tr("run the command again with a network"),
            )
        repo = read_repo(hub, "dataset", repo_id, revision=revision)
        into = folder / sha256_json([[f.path, f.sha256 or f.git_sha1, f.size] for f in repo.files])
        into = into.with_name(into.name[:16])
        files = _choose(repo, into, wanted)
        _require_space(into, files)
        _fetch(repo, files, into, on_fetch)
        write_json(
            record,
            {
                "hub": hub,
                "id": repo_id,
                "revision": repo.revision,
                "asked": {"revision": revision, **asked},
                "files": [[f"{into.name}/{file.path}", file.size] for file in files],
            },
        )
    found = _recorded(record)
    assert found is not None
    return found


def _recorded(record: Path) -> tuple[Path, ...] | None:
    """The files that were fetched before, if all of them are still there with their sizes."""
    try:
        files: list[tuple[str, int]] = json.loads(record.read_text("utf-8"))["files"]
        paths = tuple(record.parent / path for path, _ in files)
        whole = all(
            path.stat().st_size == size for path, (_, size) in zip(paths, files, strict=True)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return paths if whole and paths else None


def _choose(repo: HubRepo, into: Path, wanted: Choice | str) -> list[HubFile]:
    by_path = {file.path: file for file in repo.files}
    if isinstance(wanted, str):
        if wanted not in by_path:
            raise NotFoundError(
                "data.not_found", tr("{where} has no file {file}", where=repo.url, file=wanted)
            )
        return [by_path[wanted]]
    head: Any = {}
    if readme := by_path.get(_README):
        fetch_file(repo.hub, readme, into / _README, unverified=True)
        head = head_of((into / _README).read_text("utf-8", "replace"))
    chosen = choose_files(by_path, head, wanted, repo.url)
    if bad := next((path for path in chosen if packed(path)), None):
        raise InputError(
            "data.packed",
            tr("{where}: {file} is compressed, which is not read", where=repo.url, file=bad),
            tr("download and unpack it, then name the file as `file_name`"),
        )
    return [by_path[path] for path in chosen]


def _require_space(into: Path, files: Sequence[HubFile]) -> None:
    into.mkdir(parents=True, exist_ok=True)
    missing = sum(file.size for file in files if not (into / file.path).is_file())
    free = shutil.disk_usage(into).free
    if missing * _ROOM > free:
        raise ResourceError(
            "disk.full",
            tr(
                "the dataset needs {needed} MB, but {path} has {free} MB free",
                needed=missing // 10**6,
                path=str(into),
                free=free // 10**6,
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk"),
        )


def _fetch(repo: HubRepo, files: Sequence[HubFile], into: Path, on_fetch: OnFetch | None) -> None:
    total, before = sum(file.size for file in files), 0
    for file in files:
        start = before

        def told(done: int, _: int | None, start: int = start) -> None:
            if on_fetch:
                on_fetch(repo.id, start + done, total)

        fetch_file(repo.hub, file, into / file.path, on_progress=told, unverified=True)
        before += file.size
