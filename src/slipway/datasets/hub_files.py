"""Which files of a dataset on a hub are the rows of a split: a function of its file names alone.

As Hugging Face's `datasets` decides it for repositories without a program of their own: `configs`
in the head of README.md, else the names of files and folders. ModelScope does the same.
https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import Text, tr
from slipway.datasets.rows import SUFFIXES

_SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*\..*", re.ASCII)
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "dev", "val"),
}
_PACKED = (".gz", ".zip", ".zst", ".xz", ".bz2", ".tar", ".tgz", ".7z", ".lz4")
_NO_ROWS = frozenset(
    {"README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip"}
    | {"dataset_dict.json", "state.json", "configuration.json"}
)
_ALIKE = {".jsonl": ".json"}
"""Types that one reader reads: they may stand side by side."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked of a dataset; empty: the default one."""

    subset: str = ""
    folder: str = ""
    split: str = "train"


def head_of(readme: str) -> Mapping[str, Any]:
    """The YAML head of a README.md; empty when there is none, or none that can be read."""
    parts = re.split(r"^---[ \t]*$", readme.replace("\r\n", "\n"), maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def choose_files(
    paths: Iterable[str], head: Mapping[str, Any], choice: Choice, where: str
) -> tuple[str, ...]:
    """The files of a split, in the order of their names.

    Args:
        paths: all files of the repository.
        head: of its README.md; see `head_of`.
        where: the dataset's address, for errors.

    Raises:
        NotFoundError: no such subset or split; what there is is named.
        InputError: several subsets and none is chosen; no file of rows; packed files.
    """
    rows = [path for path in sorted(paths) if _may_hold_rows(path)]
    config = _config(head, choice, where)
    if config is not None and "data_files" in config and not choice.folder:
        splits = _listed(config, rows)
    else:
        base = choice.folder or str((config or {}).get("data_dir") or "")
        splits = _by_name(rows, base.strip("/").removeprefix("./"))
    found = _one_type(splits.get(choice.split, []))
    if found:
        return tuple(found)
    raise _nothing(splits, rows, choice, where)


def _may_hold_rows(path: str) -> bool:
    *folders, name = path.split("/")
    hidden = any(part.startswith((".", "__")) for part in (*folders, name))
    return not hidden and name not in _NO_ROWS and _suffix(path) in (*SUFFIXES, *_PACKED)


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _config(head: Mapping[str, Any], choice: Choice, where: str) -> Mapping[str, Any] | None:
    """The subset's part of the head; None when the head has none."""
    given = head.get("configs")
    configs = {
        str(one["config_name"]): one
        for one in (given if isinstance(given, list) else [])
        if isinstance(one, dict) and one.get("config_name")
    }
    wanted = choice.subset
    if wanted in configs:
        return configs[wanted]
    if wanted and (configs or wanted != "default"):
        raise NotFoundError(
            "data.no_subset",
            tr("{where} has no subset `{name}`", where=where, name=wanted),
            _there_are(configs),
        )
    if not configs:
        return None
    marked = [name for name, one in configs.items() if one.get("default") is True]
    for name in (*marked, "default"):
        if name in configs:
            return configs[name]
    if len(configs) == 1 or choice.folder:
        return next(iter(configs.values()))
    raise InputError(
        "data.which_subset",
        tr("{where} has several subsets and none is named", where=where),
        tr("add `subset` to its entry: one of {names}", names=", ".join(configs)),
    )


def _there_are(names: Iterable[str]) -> Text | str:
    listed = ", ".join(names)
    return tr("it has: {names}", names=listed) if listed else ""


def _listed(config: Mapping[str, Any], rows: Sequence[str]) -> dict[str, list[str]]:
    """`data_files`: a pattern, several, or patterns by split."""
    given, base = config["data_files"], str(config.get("data_dir") or "").strip("/")
    patterns: list[tuple[str, str]] = []
    if isinstance(given, Mapping):
        given = [{"split": split, "path": path} for split, path in given.items()]
    for item in given if isinstance(given, list) else [given]:
        split, path = ("train", item)
        if isinstance(item, Mapping):
            split, path = str(item.get("split") or "train"), item.get("path") or []
        patterns += [(split, str(one)) for one in (path if isinstance(path, list) else [path])]
    splits: dict[str, list[str]] = {}
    for split, pattern in patterns:
        rule = _rule(f"{base}/{pattern}" if base else pattern)
        taken = splits.setdefault(split, [])
        taken += [path for path in rows if rule.fullmatch(path) and path not in taken]
    return splits


def _rule(pattern: str) -> re.Pattern[str]:
    """A shell pattern in which `**` crosses folders and `*` does not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.removeprefix("./").lstrip("/"))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile(
        "".join(
            known.get(part)
            or (part.replace("[!", "[^", 1) if part.startswith("[") else re.escape(part))
            for part in parts
        )
    )


def _by_name(rows: Sequence[str], base: str) -> dict[str, list[str]]:
    """Splits by the names of files and folders below `base`; all are `train` when none tells."""
    inside = {path.removeprefix(f"{base}/"): path for path in rows if _below(path, base)}
    splits: dict[str, list[str]] = {}
    for name, path in inside.items():
        if match := _SHARD.fullmatch(name):
            splits.setdefault(match[1], []).append(path)
    if splits:
        return splits
    for split, words in _WORDS.items():
        rule = re.compile(rf"(?:^|[-._ 0-9/])(?:{'|'.join(words)})(?:[-._ 0-9/]|$)")
        if found := [path for name, path in inside.items() if rule.search(name)]:
            splits[split] = found
    return splits or {"train": list(inside.values())}


def _below(path: str, base: str) -> bool:
    return not base or path.startswith(f"{base}/")


def _one_type(files: Sequence[str]) -> list[str]:
    """The files of the commonest type: a table may lie there twice, as .csv and as .parquet."""
    types = Counter(_ALIKE.get(_suffix(path), _suffix(path)) for path in files)
    if not types:
        return []
    best = max(types, key=lambda kind: types[kind])
    return [path for path in files if _ALIKE.get(_suffix(path), _suffix(path)) == best]


def packed(path: str) -> bool:
    """Whether a file is compressed, which is not read."""
    return _suffix(path) in _PACKED


def _nothing(
    splits: Mapping[str, Sequence[str]], rows: Sequence[str], choice: Choice, where: str
) -> NotFoundError | InputError:
    if not rows:
        return InputError(
            "data.no_rows",
            tr("{where} has no file of rows ({names})", where=where, names=", ".join(SUFFIXES)),
            tr(
                "programs of a dataset are not run; Hugging Face keeps many converted: try "
                "`revision: refs/convert/parquet` and `folder: default` (or the subset)"
            ),
        )
    return NotFoundError(
        "data.no_split",
        tr("{where} has no split `{name}`", where=where, name=choice.split),
        _there_are(name for name, files in splits.items() if files),
    )
