"""CSV, Parquet, Arrow and plain text into rows, batch by batch.

CSV needs nothing but Python: every cell is text, as it stands. Parquet and Arrow need pyarrow
(`slipway[tables]`), loaded when such a file is read. A row of theirs is named by its number.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from slipway.core.errors import missing_extra
from slipway.core.i18n import tr
from slipway.datasets.json_rows import BOM, not_utf8, problem
from slipway.datasets.model import RawRow, RowProblem

_BATCH_ROWS = 1024
_DELIMITERS = ("\t", ";", "|")


def text_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """Every line of a text file that is not blank, as `{"text": line}`."""
    for number, line in enumerate(data, start=1):
        line = line.removeprefix(BOM) if number == 1 else line
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield problem(file, number, "encoding", not_utf8(line, error))
            continue
        if text.strip():
            yield RawRow(file, number, {"text": text})


class _Undecodable(Exception):
    def __init__(self, line: int, data: bytes, error: UnicodeDecodeError) -> None:
        super().__init__(line)
        self.line, self.data, self.error = line, data, error


def _csv_lines(data: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(data, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _Undecodable(number, line, error) from error


def csv_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """The rows of a CSV file whose first row names the columns; empty cells are absent.

    The separator is a comma, or a tab, semicolon or bar where the first row has no comma.
    """
    csv.field_size_limit(sys.maxsize)  # the default, 131,072 characters, cuts off conversations
    first = data.readline()
    data.seek(0)
    delimiter = next((d for d in _DELIMITERS if b"," not in first and d.encode() in first), ",")
    reader = csv.reader(_csv_lines(data), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) != len(header):
            again = next(name for name in header if header.count(name) > 1)
            reason = tr("the column `{key}` stands twice", key=again)
            yield problem(file, 1, "duplicate_key", reason, again)
            return
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
                yield RawRow(file, line, row)
            elif cells:
                reason = tr(
                    "{found} cells, but {wanted} columns", found=len(cells), wanted=len(header)
                )
                yield problem(file, line, "cells", reason)
            line = reader.line_num + 1
    except _Undecodable as broken:
        yield problem(file, broken.line, "encoding", not_utf8(broken.data, broken.error))
    except csv.Error as error:
        yield problem(file, line, "broken_csv", tr("broken CSV: {reason}", reason=str(error)))


def parquet_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """The rows of a Parquet file.

    Raises:
        ResourceError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra("pyarrow", "tables") from error
    yield from _batches(file, pa, lambda: pq.ParquetFile(data).iter_batches(batch_size=_BATCH_ROWS))


def arrow_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """The rows of an Arrow file: the file format (Feather), or the stream that HF datasets keep.

    Raises:
        ResourceError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing_extra("pyarrow", "tables") from error
    magic = data.read(6)
    data.seek(0)

    def batches() -> Iterator[Any]:
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(data)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
        else:
            yield from pa.ipc.open_stream(data)

    yield from _batches(file, pa, batches)


def _batches(file: Path, pa: Any, batches: Any) -> Iterator[RawRow | RowProblem]:
    number = 0
    try:
        for batch in batches():
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield RawRow(file, number, {str(key): _cell(row[key]) for key in row})
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        reason = tr("the table cannot be read: {reason}", reason=str(error).split("\n")[0])
        yield problem(file, number + 1, "broken_table", reason)


def _cell(value: Any) -> Any:
    """A cell; objects inside of it lose keys that are null.

    A column of objects has every key that any row has, null where a row has it not.
    """
    if isinstance(value, dict):
        return {key: _cell(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_cell(item) for item in value]
    return value
