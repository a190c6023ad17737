"""Files into raw rows: JSON lines or one JSON list, each row with its line, each fault named.

A file is UTF-8. A byte order mark and Windows line ends are read as if they were not there. Lines
are cut at "\\n" only, because JSON strings may hold other characters that Unicode counts as breaks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import NotFoundError, from_os_error
from slipway.core.i18n import Text, tr
from slipway.datasets.model import RowProblem, Split

SUFFIXES = (".jsonl", ".json")
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in the file."""

    file: Path
    line: int
    value: dict[str, Any]


def split_files(path: Path) -> dict[Split, Path]:
    """The files of a dataset: `train` and, if there is one, `heldout`.

    Args:
        path: a folder with `train.jsonl` (or `.json`) and perhaps `heldout.jsonl`, or one file,
            which then is the train split.

    Raises:
        NotFoundError: nothing is at `path`, or the folder has no train file.
    """
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise NotFoundError(
            "data.not_found",
            tr("the dataset {path} does not exist", path=str(path)),
            tr("give a folder with train.jsonl, or one .jsonl or .json file"),
        )
    found: dict[Split, Path] = {}
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        for suffix in SUFFIXES:
            candidate = path / f"{split}{suffix}"
            if candidate.is_file():
                found.setdefault(split, candidate)
    if "train" not in found:
        raise NotFoundError(
            "data.no_train_file",
            tr("{path} holds neither train.jsonl nor train.json", path=str(path)),
            tr("rename the file of training rows to train.jsonl, or give the file itself"),
        )
    return found


def read_rows(file: Path) -> Iterator[RawRow | RowProblem]:
    """The rows of a file in order; what cannot be read comes as a `RowProblem` in its place."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise from_os_error(error, file) from error
    if data.startswith(_WIDE_BOMS) or b"\x00" in data[:4096]:
        yield _problem(file, 0, "encoding", tr("the file is not UTF-8 (UTF-16 or binary)"))
        return
    data = data.removeprefix(_BOM)
    if not data.strip():
        yield _problem(file, 0, "empty_file", tr("the file is empty"))
    elif data.lstrip().startswith(b"["):
        yield from _list_rows(file, data)
    else:
        yield from _line_rows(file, data)


def _line_rows(file: Path, data: bytes) -> Iterator[RawRow | RowProblem]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _problem(file, number, "encoding", _not_utf8(line, error))
            continue
        try:
            value = _parse(text)
        except _DuplicateKey as duplicate:
            yield _problem(file, number, "duplicate_key", _twice(duplicate), str(duplicate))
        except ValueError as error:
            yield _problem(file, number, "broken_json", _broken(error))
        else:
            yield _row(file, number, value)


def _list_rows(file: Path, data: bytes) -> Iterator[RawRow | RowProblem]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield _problem(file, line, "encoding", _not_utf8(data, error))
        return
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    at = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    while at < len(text) and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
            at = _skip(text, at)
            if at >= len(text) or text[at] not in ",]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        except _DuplicateKey as duplicate:
            yield _problem(file, line, "duplicate_key", _twice(duplicate), str(duplicate))
            return
        except json.JSONDecodeError as error:
            # the rest of a broken list cannot be told apart into rows
            yield _problem(file, error.lineno, "broken_json", _broken(error))
            return
        yield _row(file, line, value)
        if text[at] == ",":
            at = _skip(text, at + 1)
    if at >= len(text):
        yield _problem(file, line, "broken_json", tr("the list is not closed with `]`"))
    elif (after := _skip(text, at + 1)) < len(text):
        line = text.count("\n", 0, after) + 1
        yield _problem(file, line, "broken_json", tr("something stands after the list's `]`"))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


class _DuplicateKey(Exception):
    """A key stands twice in one object; the later value would win in silence."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        raise _DuplicateKey(next(key for key in names if names.count(key) > 1))
    return value


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys)


def _row(file: Path, line: int, value: Any) -> RawRow | RowProblem:
    if isinstance(value, dict):
        return RawRow(file, line, value)
    kind = type(value).__name__
    return _problem(file, line, "wrong_type", tr("a row must be an object, not {kind}", kind=kind))


def _problem(file: Path, line: int, code: str, reason: Text, field: str = "") -> RowProblem:
    return RowProblem(file, line, field, code, reason)


def _twice(key: _DuplicateKey) -> Text:
    return tr("the key `{key}` stands twice in one object", key=str(key))


def _broken(error: ValueError) -> Text:
    if isinstance(error, json.JSONDecodeError):
        return tr("broken JSON: {reason} at column {column}", reason=error.msg, column=error.colno)
    return tr("broken JSON: {reason} at column {column}", reason=str(error), column=0)


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> Text:
    byte = f"0x{data[error.start]:02x}"
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return tr("not UTF-8: byte {byte}", byte=byte)
    return tr(
        "not UTF-8: byte {byte}; it may be GBK, then convert it with "
        "`iconv -f gb18030 -t utf-8 OLD > NEW`",
        byte=byte,
    )
