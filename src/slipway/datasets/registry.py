"""Datasets by their names in a dataset_info.json, as LLaMA Factory keeps them.

`dataset_dir` is a folder with that file; `ONLINE`: names are ids of datasets on a hub;
`REMOTE:owner/name`: the file lies in a dataset repository of Hugging Face.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, UsageError, from_os_error, nearest
from slipway.core.i18n import tr
from slipway.datasets.formats import Layout
from slipway.datasets.hub import OnFetch, hub_dataset, hub_file
from slipway.datasets.hub_files import Choice
from slipway.datasets.registry_entry import Entry, Reader, enabled, lost, read_entry
from slipway.datasets.registry_split import Span
from slipway.datasets.rows import SUFFIXES, files_in

REGISTRY = "dataset_info.json"
ONLINE = "ONLINE"
REMOTE = "REMOTE:"
_OF_PAIRS = ("dpo", "rm")
_OF_ANSWERS = ("sft", "kto")
_SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class Registered:
    """A dataset of a registry, found.

    Attributes:
        files: where its rows are, in order.
        layout: what its columns and roles are called.
        span: the part of its rows; None: all.
        draw: so many of those drawn at random; None: all.
    """

    files: tuple[Path, ...]
    layout: Layout
    span: Span | None = None
    draw: int | None = None


def is_elsewhere(info: str) -> bool:
    """Whether a `dataset_dir` is no folder but stands for a hub."""
    return info == ONLINE or info.startswith(REMOTE)


def find_dataset(
    info: str, name: str, stage: str | None = None, on_fetch: OnFetch | None = None
) -> Registered:
    """The files of a dataset and how to read them.

    Args:
        info: folder of the registry, `ONLINE`, or `REMOTE:owner/name`.
        stage: what is learned; None: whatever the dataset is made for.
        on_fetch: told how far a download is.

    Raises:
        NotFoundError: no registry, no such name in it, or no such file.
        InputError: the registry or the entry is broken.
        UsageError: the entry asks for something Slipway does not do, or fits another stage.
        SlipwayError: a hub cannot be reached, or does not hand out the dataset.
    """
    entry = _entry(info, name, on_fetch)
    layout = entry.layout
    if stage is not None and (stage in _OF_PAIRS) != bool(layout.ranking):
        raise _wrong_stage(info, entry, stage)
    if stage == "pt" and layout.format != "alpaca":
        raise _wrong_stage(info, entry, stage)
    if stage in _OF_ANSWERS and layout.format == "alpaca" and not layout.response:
        raise lost(Reader(_shown(info), entry.name, {}), "columns.response")
    if stage == "pt" or (stage is None and layout.format == "alpaca" and not layout.response):
        # of plain text the answer is not read: LLaMA Factory learns the prompt alone
        layout = replace(layout, pt=True, response="" if not layout.ranking else layout.response)
    return Registered(_files(info, entry, on_fetch), layout, entry.span, entry.draw)


def _entry(info: str, name: str, on_fetch: OnFetch | None) -> Entry:
    if info == ONLINE:
        hub = "ms_hub_url" if enabled("USE_MODELSCOPE_HUB") else "hf_hub_url"
        return read_entry(ONLINE, name, {hub: name})
    path = _registry_file(info, on_fetch)
    known = read_registry(path)
    if name in known:
        return read_entry(_shown(info), name, known[name])
    close = nearest(name, known)
    shown = ", ".join([*known][:_SHOWN_NAMES]) + (", …" if len(known) > _SHOWN_NAMES else "")
    raise NotFoundError(
        "data.undefined",
        tr("the dataset `{name}` does not stand in {path}", name=name, path=_shown(info)),
        tr("did you mean {names}?", names=", ".join(f"`{one}`" for one in close))
        if close
        else tr("it has: {names}", names=shown),
    )


def _registry_file(info: str, on_fetch: OnFetch | None) -> Path:
    if info.startswith(REMOTE):
        return hub_file("hf", info.removeprefix(REMOTE), REGISTRY, on_fetch)
    path = Path(info).expanduser() / REGISTRY
    if not path.is_file():
        raise NotFoundError(
            "data.no_registry",
            tr("{folder} holds no dataset_info.json", folder=info),
            tr("give the folder that holds it"),
        )
    return path


def read_registry(path: Path) -> Mapping[str, Any]:
    """The entries of a registry by name, unchecked.

    Raises:
        InputError: it is not an object in JSON.
        SlipwayError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise from_os_error(error, path) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            "data.bad_registry",
            tr("{path} is not JSON: {reason}", path=str(path), reason=str(error)),
            tr("see `docs/dataset-info.md`"),
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            "data.bad_registry",
            tr("{path} must be an object of dataset names", path=str(path)),
            tr("see `docs/dataset-info.md`"),
        )
    return value


def _files(info: str, entry: Entry, on_fetch: OnFetch | None) -> tuple[Path, ...]:
    if entry.where != "file":
        choice = Choice(entry.subset, entry.folder, entry.split)
        return hub_dataset(entry.where, entry.place, choice, entry.revision, on_fetch)
    if info.startswith(REMOTE):  # beside the registry, so in the same repository
        return (hub_file("hf", info.removeprefix(REMOTE), entry.place, on_fetch),)
    folder = Path(info).expanduser()
    path = folder / Path(entry.place).expanduser()
    reader = Reader(_shown(info), entry.name, {})
    if path.is_dir():
        if files := files_in(path):
            return files
        raise reader.fault("file_name", tr("{path} holds no file of rows", path=str(path)))
    if not path.is_file():
        fault = reader.fault(
            "file_name",
            tr("{path} does not exist", path=str(path)),
            tr("file names are relative to the folder of dataset_info.json"),
        )
        raise NotFoundError("data.not_found", fault.message, fault.hint)
    if path.suffix.lower() not in SUFFIXES:
        raise reader.fault("file_name", tr("must be one of {names}", names=", ".join(SUFFIXES)), "")
    return (path,)


def _shown(info: str) -> str:
    return info if is_elsewhere(info) else str(Path(info) / REGISTRY)


def _wrong_stage(info: str, entry: Entry, stage: str) -> UsageError:
    where, name = _shown(info), entry.name
    if entry.layout.ranking:
        reason = tr(
            "{path}: `{name}` is a dataset of pairs (`ranking: true`)", path=where, name=name
        )
    elif stage in _OF_PAIRS:
        reason = tr(
            "{path}: `{name}` is no dataset of pairs (`ranking` is not true)", path=where, name=name
        )
    else:
        reason = tr(
            "{path}: `{name}` is a dataset of conversations, not of plain texts",
            path=where,
            name=name,
        )
    return UsageError(
        "data.wrong_stage",
        reason,
        tr("stage {stage} learns from other rows: choose another dataset or stage", stage=stage),
    )
