"""Where the rows of a dataset lie, and how each kind of file becomes rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from slipway.core.errors import InputError, NotFoundError, from_os_error
from slipway.core.i18n import tr
from slipway.datasets.json_rows import BOM, line_rows, list_rows, problem
from slipway.datasets.model import RawRow, RowProblem, Split
from slipway.datasets.tables import arrow_rows, csv_rows, parquet_rows, text_rows

__all__ = ["SUFFIXES", "RawRow", "files_in", "read_rows", "split_files", "split_parts"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")
_READERS: dict[str, Callable[[Path, IO[bytes]], Iterator[RawRow | RowProblem]]] = {
    ".csv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
    ".feather": arrow_rows,
    ".txt": text_rows,
}
_TABLES = (".parquet", ".arrow", ".feather")
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
# what lies beside the rows in a folder that `datasets` saved, and in LLaMA Factory's data folder
_NO_ROWS = frozenset({"dataset_info.json", "state.json", "dataset_dict.json", "manifest.json"})


def split_parts(path: Path) -> dict[Split, tuple[Path, ...]]:
    """The files of a dataset: those of `train` and, if there are any, of `heldout`.

    Args:
        path: one file, which is the train split; or a folder with `train.jsonl` (or another of
            `SUFFIXES`) and perhaps `heldout.jsonl`; or with parts `train-00000-of-00003.parquet`
            (and `heldout-…`); or with files of one type under any names, which all are train.

    Raises:
        NotFoundError: nothing is at `path`, or the folder has no rows.
        InputError: the folder holds rows in files of several types.
    """
    if path.is_file():
        return {"train": (path,)}
    if not path.is_dir():
        raise NotFoundError(
            "data.not_found",
            tr("the dataset {path} does not exist", path=str(path)),
            tr("give a folder with train.jsonl, or one .jsonl or .json file"),
        )
    found: dict[Split, tuple[Path, ...]] = {}
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        names = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        if single := next((name for name in names if name.is_file()), None):
            found[split] = (single,)
        elif parts := sorted(p for p in path.glob(f"{split}-*") if p.suffix in SUFFIXES):
            found[split] = tuple(parts)
    if "train" not in found and "heldout" not in found and (whole := files_in(path)):
        found["train"] = whole
    if "train" not in found:
        raise NotFoundError(
            "data.no_train_file",
            tr("{path} holds neither train.jsonl nor train.json", path=str(path)),
            tr("rename the file of training rows to train.jsonl, or give the file itself"),
        )
    return found


def split_files(path: Path) -> dict[Split, Path]:
    """`split_parts` for a dataset with one file for each split.

    Raises:
        NotFoundError: nothing is at `path`, or the folder has no train file.
        InputError: a split lies in several files.
    """
    files: dict[Split, Path] = {}
    for split, parts in split_parts(path).items():
        if len(parts) > 1:
            raise InputError(
                "data.several_files",
                tr("the {split} rows of {path} lie in several files", split=split, path=str(path)),
                tr("give one of them, such as {file}", file=str(parts[0])),
            )
        files[split] = parts[0]
    return files


def files_in(folder: Path) -> tuple[Path, ...]:
    """The files of rows that lie in a folder, in the order of their names.

    Raises:
        InputError: they are of several types.
    """
    found = sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix in (*SUFFIXES, ".feather")
        and entry.is_file()
        and entry.name not in _NO_ROWS
        and not entry.name.startswith(".")
    )
    types = sorted({entry.suffix for entry in found})
    if len(types) > 1:
        raise InputError(
            "data.several_types",
            tr("{path} holds files of several types: {types}", path=folder, types=", ".join(types)),
            tr("give one file, or keep files of one type in the folder"),
        )
    return tuple(found)


def read_rows(file: Path) -> Iterator[RawRow | RowProblem]:
    """The rows of a file in order; what cannot be read comes as a `RowProblem` in its place.

    Memory does not grow with the file. The type is told by the name, JSON lines from a JSON list
    by the first character.

    Raises:
        SlipwayError: the file cannot be opened, or a package for it is missing.
    """
    try:
        data = file.open("rb")
    except OSError as error:
        raise from_os_error(error, file) from error
    with data:
        suffix = file.suffix.lower()
        if suffix in _TABLES:
            yield from _READERS[suffix](file, data)
            return
        head = data.read(4096)
        if head.startswith(_WIDE_BOMS) or b"\x00" in head:
            yield problem(file, 0, "encoding", tr("the file is not UTF-8 (UTF-16 or binary)"))
            return
        first = head.removeprefix(BOM).lstrip()
        while not first and (head := data.read(4096)):
            first = head.lstrip()
        if not first:
            yield problem(file, 0, "empty_file", tr("the file is empty"))
            return
        data.seek(0)
        usual = list_rows if first.startswith(b"[") else line_rows
        yield from _READERS.get(suffix, usual)(file, data)
