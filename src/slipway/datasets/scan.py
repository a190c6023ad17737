"""All rows of a dataset looked at once: what each is worth, and sketches that find likeness.

In memory a row takes some 300 bytes, however long it is; texts lie in temporary files.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from slipway.core.errors import from_os_error
from slipway.datasets.growing import Growing
from slipway.datasets.model import Sample, Split
from slipway.datasets.personal import PersonalKind
from slipway.datasets.quality import Assessed, assess, personal_bits
from slipway.datasets.reasons import POINTS, REASONS
from slipway.datasets.sketches import Sketched, Sketcher, Sketches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_ROWS = 512
_BATCH_CHARS = 2_000_000
_HEAD_CHARS = 160


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row by its name and place."""

    id: str
    file: Path
    line: int
    head: str = ""

    @property
    def place(self) -> str:
        """`file:line`, without the folder."""
        return f"{self.file.name}:{self.line}"


@dataclass(slots=True)
class Batch:
    """Some rows, looked at; what a worker gives back.

    Attributes:
        numbers: (rows, 8) unsigned 64-bit: reasons, kinds of personal data, language, characters,
            units, units of answers, the same conversation, the same id.
        asked_of: for each question the row of the batch.
        asked_first: whether it is the first of its row.
    """

    numbers: NDArray[np.uint64]
    whole: Sketched
    asked: Sketched
    asked_of: NDArray[np.int64]
    asked_first: NDArray[np.bool_]
    personal: Counter[PersonalKind]
    names: list[tuple[str, str, int, str]]


BITS, PERSONAL, LANGUAGE, CHARS, UNITS, ANSWER_UNITS, SAME, IDENT = range(8)
COLUMNS = 8


class Looker:
    """Looks at batches of rows; each process has one."""

    def __init__(self) -> None:
        self._sketch = Sketcher()

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        np = self._sketch.np
        rows = [assess(sample) for sample in samples]
        numbers = np.array(
            [_numbers(row, sample) for row, sample in zip(rows, samples, strict=True)], np.uint64
        )
        counts = [len(row.questions) for row in rows]
        firsts = [n == 0 for count in counts for n in range(count)]
        personal: Counter[PersonalKind] = Counter()
        for row in rows:
            if row.personal:
                personal.update(row.personal)
        return Batch(
            numbers.reshape(len(rows), COLUMNS),
            self._sketch([row.whole for row in rows]),
            self._sketch([units for row in rows for units in row.questions]),
            np.repeat(np.arange(len(rows)), counts),
            np.array(firsts, bool),
            personal,
            [
                (sample.id, str(sample.file), sample.line, " ".join(row.head[:_HEAD_CHARS].split()))
                for row, sample in zip(rows, samples, strict=True)
            ],
        )


def _numbers(row: Assessed, sample: Sample) -> tuple[int, ...]:
    ident = blake2b(sample.id.encode(errors="replace"), digest_size=8).digest()
    return (
        row.bits,
        personal_bits(row.personal),
        row.language,
        row.chars,
        row.units,
        row.answer_units,
        row.same,
        int.from_bytes(ident),
    )


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Rows in lists that are neither many nor much."""
    waiting = iter(samples)
    while first := list(islice(waiting, 1)):
        batch, chars = first, 0
        for sample in islice(waiting, BATCH_ROWS - 1):
            batch.append(sample)
            chars += len(sample.text) + sum(len(m.content) for m in sample.messages)
            if chars >= _BATCH_CHARS:
                break
        yield batch


@dataclass(slots=True)
class SplitScan:
    """What is known of a split: its rows are `start` to `end` of the scan.

    Attributes:
        personal: kinds of personal data -> pieces.
    """

    start: int
    end: int
    personal: Counter[PersonalKind] = field(default_factory=Counter)


class Scan:
    """All rows, numbered in the order in which they were read. Close it when done.

    Attributes:
        whole: sketches of the conversations, numbered like the rows.
        asked: sketches of the questions, with the row of each and whether it is its first.
    """

    def __init__(self, np: Any) -> None:
        self.np = np
        self._numbers = Growing(np, np.uint64, COLUMNS)
        self._lines = Growing(np, np.int64)
        self._files = Growing(np, np.uint16)
        self._file_names: dict[str, int] = {}
        self._ends = Growing(np, np.int64)
        self._names: IO[bytes] = tempfile.TemporaryFile(prefix="slipway-rows-")  # noqa: SIM115 - see close
        self._written = 0
        self.whole = Sketches(np)
        self.asked = Sketches(np)
        self._asked_of = Growing(np, np.int64)
        self._asked_first = Growing(np, np.bool_)
        self.splits: dict[Split, SplitScan] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files."""
        self._names.close()
        self.whole.close()
        self.asked.close()

    def column(self, number: int) -> NDArray[Any]:
        """One of the numbers of each row, such as `BITS`; a view that may be written to."""
        return self._numbers.array[:, number]

    @property
    def asked_of(self) -> NDArray[np.int64]:
        """The row of each question."""
        return self._asked_of.array

    @property
    def asked_first(self) -> NDArray[np.bool_]:
        """Whether a question is the first of its row."""
        return self._asked_first.array

    def add(self, split: Split, batch: Batch) -> None:
        """Add rows to a split; the rows of a split come one after the other.

        Raises:
            ResourceError: the disk of temporary files is full.
        """
        start = len(self)
        known = self.splits.setdefault(split, SplitScan(start, start))
        self._numbers.extend(batch.numbers)
        self.whole.add(batch.whole)
        self.asked.add(batch.asked)
        self._asked_of.extend(batch.asked_of + start)
        self._asked_first.extend(batch.asked_first)
        known.end = len(self)
        known.personal += batch.personal
        self._name(batch.names)

    def _name(self, names: Sequence[tuple[str, str, int, str]]) -> None:
        ends = []
        parts = []
        for name, _, _, head in names:
            part = f"{name}\x00{head}".encode(errors="replace")
            parts.append(part)
            self._written += len(part)
            ends.append(self._written)
        try:
            self._names.write(b"".join(parts))
        except OSError as error:
            raise from_os_error(error, tempfile.gettempdir()) from error
        self._ends.extend(ends)
        self._lines.extend([line for _, _, line, _ in names])
        files = self._file_names
        self._files.extend([files.setdefault(file, len(files)) for _, file, _, _ in names])

    def row(self, number: int) -> RowRef:
        """A row by its number."""
        ends = self._ends.array
        start = int(ends[number - 1]) if number else 0
        self._names.flush()
        data = os.pread(self._names.fileno(), int(ends[number]) - start, start)
        name, _, head = data.decode().partition("\x00")
        file = list(self._file_names)[int(self._files.array[number])]
        return RowRef(name, Path(file), int(self._lines.array[number]), head)

    def scores(self) -> NDArray[np.int64]:
        """The quality of each row, 0 to 100, by the reasons known so far."""
        np = self.np
        bits = self.column(BITS)
        lost = np.zeros(len(self), np.int64)
        for number, reason in enumerate(REASONS):
            lost += ((bits >> np.uint64(number)) & np.uint64(1)).astype(np.int64) * POINTS[reason]
        left: NDArray[Any] = np.maximum(0, 100 - lost)
        return left


def mark(scan: Scan, rows: Any, bit: int) -> None:
    """Add a reason to some rows."""
    scan.column(BITS)[rows] |= scan.np.uint64(bit)
