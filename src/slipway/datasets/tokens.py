"""A token set: encoded documents in memory-mapped files, so that a million rows cost no memory.

tokens.u32   token ids, all documents one after the other (little endian)
labels.u8    1 where the token is learned
offsets.i64  where each document begins, and the end of the last
learned.i32  learned tokens of each document
names.utf8   the documents' ids, one after the other; names.i64: where each begins
marks.u8     feedback only: 1 where the answer is a good one
meta.json    kind, counts, rows that were cut or dropped, size and CRC-32 of each file
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from slipway.datasets.encoded import IGNORE, Encoded, LongRow
from slipway.datasets.model import SampleKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
DTYPES = {
    "tokens.u32": "<u4",
    "labels.u8": "u1",
    "offsets.i64": "<i8",
    "learned.i32": "<i4",
    "names.utf8": "u1",
    "names.i64": "<i8",
    "marks.u8": "u1",
}
_MAX_NAMED = 1000
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class NamedRows:
    """Rows that something happened to: all are counted, the first thousand named."""

    count: int = 0
    first: list[LongRow] = field(default_factory=list)

    def add(self, row: LongRow) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.first) < _MAX_NAMED:
            self.first.append(row)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[LongRow]:
        """The named ones."""
        return iter(self.first)

    def as_json(self) -> dict[str, Any]:
        """Count and names, for a file."""
        rows = [[row.id, row.file, row.line, row.tokens] for row in self.first]
        return {"count": self.count, "first": rows}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> NamedRows:
        """Read what `as_json` wrote."""
        return cls(int(value["count"]), [LongRow(*row) for row in value["first"]])


class TokenSet(Sequence[Encoded]):
    """Encoded documents, read from the disk as they are asked for.

    Attributes:
        kind: what its samples teach. Of a `preference` set row 2i is the chosen answer of pair i
            and row 2i + 1 the rejected one, and only the answers are learned.
        lengths: tokens of each document (int64).
        learned: learned tokens of each document (int64).
        desirable: of a `feedback` set, whether each answer is a good one (bool); else None.
        truncated: samples that lost tokens to the cut-off.
        dropped: samples of which a document, or all, had nothing to learn before the cut-off.
        skipped: rows of the files that broke the rules, as the reader counted them: `count` and
            the `first` as JSON.
        unread: columns that are not read -> rows that have them.
        refused: rows that could not be encoded and were left out; `reasons` are the first.
        cutoff_len: the cut-off in tokens.
        folder: where the files are; None once they are temporary or hand-made.
    """

    def __init__(
        self,
        arrays: dict[str, NDArray[Any]],
        meta: dict[str, Any],
        folder: Path | None = None,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        import numpy as np

        self._arrays, self._meta, self._order = arrays, meta, order
        self.folder = folder
        self.kind: SampleKind = meta["kind"]
        self.cutoff_len = int(meta["cutoff_len"])
        self.truncated = NamedRows.from_json(meta["truncated"])
        self.dropped = NamedRows.from_json(meta["dropped"])
        self.skipped: dict[str, Any] = meta["skipped"]
        self.unread: dict[str, int] = meta.get("unread", {})
        self.refused = int(meta["refused"])
        self.reasons: list[str] = meta["reasons"]
        lengths = np.diff(arrays["offsets.i64"])
        learned = np.asarray(arrays["learned.i32"]).astype(np.int64)
        self.lengths: NDArray[np.int64] = lengths if order is None else lengths[order]
        self.learned: NDArray[np.int64] = learned if order is None else learned[order]
        self.desirable: NDArray[np.bool_] | None = None
        if self.kind == "feedback":
            marks = np.asarray(arrays["marks.u8"]).astype(bool)
            self.desirable = marks if order is None else marks[order]

    @classmethod
    def open(cls, folder: Path, *, check: bool = False) -> TokenSet:
        """Open a finished folder.

        Args:
            check: read every file once and compare its CRC-32.

        Raises:
            ValueError: the folder is not whole.
            OSError: a file is missing or unreadable.
        """
        import numpy as np

        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ValueError("another format")
        arrays: dict[str, NDArray[Any]] = {}
        for name, (size, crc) in meta["files"].items():
            path = folder / name
            if path.stat().st_size != size or (check and crc32(path) != crc):
                raise ValueError(f"{name} is damaged")
            dtype = np.dtype(DTYPES[name])
            # an empty file cannot be mapped
            arrays[name] = np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)
        return cls(arrays, meta, folder)

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Encoded],
        *,
        kind: SampleKind = "chat",
        desirable: Sequence[bool] = (),
        cutoff_len: int = 1 << 30,
    ) -> TokenSet:
        """A token set in memory, of rows that somebody has already."""
        import numpy as np

        rows = list(rows)
        names = [row.id.encode() for row in rows]
        labels = [[label != IGNORE for label in row.labels] for row in rows]
        edges = np.cumsum([0, *(len(row.input_ids) for row in rows)])
        arrays: dict[str, NDArray[Any]] = {
            "tokens.u32": np.array([i for row in rows for i in row.input_ids], dtype="<u4"),
            "labels.u8": np.array([x for row in labels for x in row], dtype="u1"),
            "offsets.i64": edges.astype("<i8"),
            "learned.i32": np.array([sum(row) for row in labels], dtype="<i4"),
            "names.utf8": np.frombuffer(b"".join(names), dtype="u1"),
            "names.i64": np.cumsum([0, *map(len, names)]).astype("<i8"),
            "marks.u8": np.array(desirable, dtype="u1"),
        }
        return cls(arrays, empty_meta(kind, cutoff_len))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        import numpy as np

        ids, learned = self.arrays(index)
        labels = np.where(learned, ids, IGNORE)
        return Encoded(self.name(index), ids.tolist(), labels.tolist())

    def arrays(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids of a document, and which of them are learned."""
        import numpy as np

        number = self._number(index)
        low, high = self._arrays["offsets.i64"][number : number + 2]
        ids = np.asarray(self._arrays["tokens.u32"][low:high]).astype(np.int64)
        return ids, np.asarray(self._arrays["labels.u8"][low:high]).astype(bool)

    def name(self, index: int) -> str:
        """The id of a document: its sample's, with `#n` where a sample has several."""
        number = self._number(index)
        low, high = self._arrays["names.i64"][number : number + 2]
        return bytes(self._arrays["names.utf8"][low:high]).decode()

    def select(self, numbers: Sequence[int] | NDArray[np.int64]) -> TokenSet:
        """The documents of these numbers, in this order, without copying a token.

        What happened to other rows (`truncated`, `dropped`, ...) stays with this set.
        """
        import numpy as np

        order = np.asarray(numbers, dtype=np.int64)
        if self._order is not None:
            order = self._order[order]
        meta = {**self._meta, **empty_meta(self.kind, self.cutoff_len)}
        return TokenSet(self._arrays, meta, self.folder, order)

    def _number(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return index if self._order is None else int(self._order[index])


def lengths_of(rows: Sequence[Encoded]) -> list[int]:
    """Tokens of each row, without reading a row where that is known."""
    if isinstance(rows, TokenSet):
        return [int(length) for length in rows.lengths]
    return [len(row.input_ids) for row in rows]


def empty_meta(kind: SampleKind, cutoff_len: int) -> dict[str, Any]:
    """What `meta.json` says of a set to which nothing happened."""
    nobody = NamedRows().as_json()
    return {
        "format": FORMAT,
        "kind": kind,
        "cutoff_len": cutoff_len,
        "truncated": nobody,
        "dropped": nobody,
        "skipped": {"count": 0, "first": []},
        "refused": 0,
        "reasons": [],
    }


def crc32(path: Path) -> int:
    """CRC-32 of a file, read in constant memory."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value
