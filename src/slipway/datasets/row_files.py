"""Rows into files: JSON lines, a JSON list, CSV or Parquet, told by the name; all or nothing.

CSV and Parquet need their columns before the first row, so rows wait in a temporary file.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import orjson

from slipway.core.errors import ConflictError, UsageError, missing_extra
from slipway.core.files import new_file
from slipway.core.i18n import tr

WRITABLE = (".jsonl", ".json", ".csv", ".parquet")
_BATCH_ROWS = 1024

Row = dict[str, Any]


class RowWriter(Protocol):
    """Takes rows, one after the other."""

    def write(self, row: Row) -> None:
        """Take a row."""


@contextmanager
def row_file(path: Path, *, force: bool = False) -> Iterator[RowWriter]:
    """Write rows to a file, which is there only when the block succeeds.

    Raises:
        UsageError: its name ends with none of `WRITABLE`.
        ConflictError: a file is there, and `force` is not set.
        ResourceError: the disk is full, or pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    check_writable(path, force=force)
    with new_file(path, force=force) as file:
        if suffix == ".jsonl":
            yield _Lines(file)
        elif suffix == ".json":
            as_list = _List(file)
            yield as_list
            as_list.end()
        else:
            with tempfile.TemporaryFile(prefix="slipway-") as spool:
                waiting = _Spool(spool)
                yield waiting
                (_csv if suffix == ".csv" else _parquet)(waiting, file)


def check_writable(path: Path, *, force: bool) -> None:
    """Whether rows may be written there, before any work is done.

    Raises:
        UsageError, ConflictError: see `row_file`.
    """
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(
            "data.file_type",
            tr("rows cannot be written to {path}", path=str(path)),
            tr("give a file that ends in one of {suffixes}", suffixes=", ".join(WRITABLE)),
        )
    if path.exists() and not force:
        raise ConflictError(
            "file.exists",
            tr("{path} exists already", path=str(path)),
            tr("give another name, or overwrite it with `--force`"),
        )


class _Lines:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        self._file.write(_dump(row))
        self._file.write(b"\n")


class _List:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = b"[\n"

    def write(self, row: Row) -> None:
        self._file.write(self._before + _dump(row))
        self._before = b",\n"

    def end(self) -> None:
        self._file.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


def _dump(row: Row) -> bytes:
    """JSON of a row; dates and other things of tables become text."""
    return orjson.dumps(row, default=str, option=orjson.OPT_NON_STR_KEYS)


class _Spool:
    """Rows that wait, and the columns that any of them has, in the order of their appearance."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.columns: dict[str, None] = {}

    def write(self, row: Row) -> None:
        self.columns.update(dict.fromkeys(row))
        self._file.write(_dump(row) + b"\n")

    def rows(self) -> Iterator[Row]:
        self._file.seek(0)
        for line in self._file:
            yield orjson.loads(line)

    def batches(self) -> Iterator[list[Row]]:
        rows = self.rows()
        while batch := list(islice(rows, _BATCH_ROWS)):
            yield batch


def _csv(spool: _Spool, file: IO[bytes]) -> None:
    """Lists and objects become JSON text; null and absent an empty cell."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    out = csv.writer(text)
    out.writerow(spool.columns)
    for row in spool.rows():
        out.writerow([_cell(row.get(column)) for column in spool.columns])
    text.detach()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _parquet(spool: _Spool, file: IO[bytes]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "tables") from error
    types = _types(spool, pa)
    schema = pa.schema(
        [(name, types[name] if types[name] is not None else pa.string()) for name in types]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for batch in spool.batches():
            columns = [
                pa.array(_column(batch, name, as_text=types[name] is None), schema.field(name).type)
                for name in types
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _column(batch: list[Row], name: str, *, as_text: bool) -> list[Any]:
    values = [row.get(name) for row in batch]
    if not as_text:
        return values
    return [value if value is None else _cell(value) for value in values]


def _types(spool: _Spool, pa: Any) -> dict[str, Any]:
    """The type of each column; None: its values fit none, so they are written as JSON text.

    Objects of free form (schemas of tools) are text in any case: as a struct each would get the
    keys of all others.
    """
    types: dict[str, Any] = dict.fromkeys(spool.columns, pa.null())
    for batch in spool.batches():
        for name, known in types.items():
            if known is None:
                continue
            try:
                found = pa.array([row.get(name) for row in batch]).type
                both = [pa.schema([("column", one)]) for one in (known, found)]
                types[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                types[name] = None
            if types[name] is not None and (name == "tools" or _hollow(types[name], pa)):
                types[name] = None
    return {name: pa.string() if found == pa.null() else found for name, found in types.items()}


def _hollow(found: Any, pa: Any) -> bool:
    """An object without keys somewhere in a type: Parquet cannot hold it."""
    if pa.types.is_struct(found):
        return found.num_fields == 0 or any(_hollow(field.type, pa) for field in found)
    return bool(pa.types.is_list(found)) and _hollow(found.value_type, pa)
