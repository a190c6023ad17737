"""Writes the files of a token set as rows come, in constant memory."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from slipway.core.errors import from_os_error
from slipway.datasets.encoded import Row
from slipway.datasets.model import RowProblem, Sample, SampleKind
from slipway.datasets.tokens import DTYPES, NamedRows, crc32, empty_meta

_CODES = {"<u4": "I", "u1": "B", "<i8": "q", "<i4": "i"}
_FLUSH_TOKENS = 1 << 18
_MAX_SKIPPED = 1000
_MAX_UNREAD = 50


class TokenWriter:
    """Collects rows and writes them out now and then; `meta.json` comes last, on a good end.

    Raises (also while rows are added):
        SlipwayError: the disk is full.
    """

    def __init__(self, folder: Path, cutoff_len: int) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        self._waiting = {name: array(_CODES[DTYPES[name]]) for name in DTYPES}
        self._kind: SampleKind = "chat"
        self._cutoff_len = cutoff_len
        self._tokens = self._name_bytes = 0
        self.truncated = NamedRows()
        self.dropped = NamedRows()
        self.refused = 0
        self.reasons: list[str] = []
        self._skipped: dict[str, Any] = {"count": 0, "first": []}
        self._unread: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._files = {name: (self._folder / name).open("wb") for name in DTYPES}
        except OSError as error:
            raise from_os_error(error, self._folder) from error
        self._waiting["offsets.i64"].append(0)
        self._waiting["names.i64"].append(0)
        return self

    def add(self, rows: Sequence[Row], sample: Sample) -> None:
        """The documents of one sample."""
        self._kind = sample.kind
        waiting = self._waiting
        for row in rows:
            ids = row.tokens.ids
            waiting["tokens.u32"].extend(ids)
            learned = bytearray(len(ids))
            for start, end in row.tokens.spans:
                learned[start:end] = b"\1" * (end - start)
            waiting["labels.u8"].frombytes(learned)
            waiting["learned.i32"].append(learned.count(1))
            self._tokens += len(ids)
            waiting["offsets.i64"].append(self._tokens)
            name = row.id.encode()
            waiting["names.utf8"].frombytes(name)
            self._name_bytes += len(name)
            waiting["names.i64"].append(self._name_bytes)
            if sample.desirable is not None:
                waiting["marks.u8"].append(sample.desirable)
        if len(waiting["tokens.u32"]) >= _FLUSH_TOKENS:
            self._flush()

    def note_skipped(self, stream: Iterable[Sample]) -> None:
        """Keep what the reader says of rows that broke the rules, and of columns that it did not
        read, for later starts.
        """
        problems: Sequence[RowProblem] = getattr(stream, "problems", ())
        count = int(getattr(stream, "problem_count", len(problems)))
        first = [problem.as_json() for problem in problems[:_MAX_SKIPPED]]
        self._skipped = {"count": count, "first": first}
        unread: Mapping[str, int] = getattr(stream, "unused_keys", {})
        self._unread = dict(sorted(unread.items())[:_MAX_UNREAD])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            for file in self._files.values():
                file.close()
        if kind is None:
            self._finish()

    def _flush(self) -> None:
        for name, values in self._waiting.items():
            if sys.byteorder == "big":
                values.byteswap()
            try:
                values.tofile(self._files[name])
            except OSError as error:
                raise from_os_error(error, self._folder) from error
            del values[:]

    def _finish(self) -> None:
        meta = {
            **empty_meta(self._kind, self._cutoff_len),
            "truncated": self.truncated.as_json(),
            "dropped": self.dropped.as_json(),
            "skipped": self._skipped,
            "unread": self._unread,
            "refused": self.refused,
            "reasons": self.reasons,
        }
        paths = [self._folder / name for name in DTYPES]
        meta["files"] = {path.name: [path.stat().st_size, crc32(path)] for path in paths}
        text = json.dumps(meta, ensure_ascii=False)
        try:
            (self._folder / "meta.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise from_os_error(error, self._folder) from error
