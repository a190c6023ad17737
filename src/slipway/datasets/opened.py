"""The splits of a dataset as streams that leave bad rows out and tell of each."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from slipway.core.errors import InputError
from slipway.datasets.formats import detect
from slipway.datasets.load import no_split
from slipway.datasets.model import RawRow, RowProblem, Sample, Split
from slipway.datasets.open import SampleStream, part_of
from slipway.datasets.rows import read_rows
from slipway.datasets.samples import Bad
from slipway.datasets.source import DataSource

SPLITS: tuple[Split, ...] = ("train", "heldout")
_LOOKED_AT = 1000


def open_splits(source: DataSource, stage: str | None = None) -> dict[Split, SampleStream]:
    """Every split that a dataset has, whole; bad rows are left out.

    What a registry takes of its rows to train on (`split`, `num_samples`) is not looked at: a row
    that is drawn twice is not a duplicate.

    Raises:
        SlipwayError: there is no dataset, see `open.part_of`.
    """
    found: dict[Split, SampleStream] = {}
    for split in SPLITS:
        if part := part_of(source, split, stage):
            part = replace(part, span=None, draw=None)
            found[split] = SampleStream([part], "concat", 0, "skip")
    if "train" not in found:
        raise no_split(source.path, "train")
    return found


def format_of(stream: SampleStream) -> str:
    """The format of a stream's rows, "unknown" when none tells it."""
    part = stream.parts[0]
    if part.layout is not None:
        return part.layout.format
    rows = (row for file in part.files for row in read_rows(file))
    first = [row.value for row in islice(rows, _LOOKED_AT) if isinstance(row, RawRow)]
    return detect(first) or "unknown"


@dataclass(slots=True)
class Problems:
    """Everything wrong with rows: all counted, the first named.

    Attributes:
        rows: rows that were left out.
        tell: called with each problem, if anybody wants them all.
    """

    limit: int
    first: list[RowProblem] = field(default_factory=list)
    count: int = 0
    rows: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    tell: Callable[[RowProblem], None] | None = None

    def add(self, problem: RowProblem) -> None:
        """Count one."""
        self.count += 1
        self.codes[problem.code] += 1
        if len(self.first) < self.limit:
            self.first.append(problem)
        if self.tell:
            self.tell(problem)

    def more(self, code: str, count: int) -> None:
        """Count problems that are not told one by one."""
        if count:
            self.count += count
            self.codes[code] += count

    def row(self, problems: Bad) -> None:
        """Count a row and all that is wrong with it."""
        self.rows += 1
        for problem in problems:
            self.add(problem)


def good_rows(stream: SampleStream, problems: Problems) -> Iterator[Sample]:
    """The samples of a stream; what was left out goes to `problems`; none at all is no error."""
    stream.on_bad = problems.row
    try:
        yield from stream
    except InputError as error:
        if error.code != "data.no_rows":
            raise
    finally:
        stream.on_bad = None


@dataclass(frozen=True, slots=True)
class GoodRow:
    """A row as it stands in the file, and the sample it makes."""

    raw: RawRow
    sample: Sample


def rows_in_step(stream: SampleStream) -> Iterator[GoodRow | Bad]:
    """Every row of a stream of one dataset: as it stands with its sample, or what is wrong."""
    bad: deque[Bad] = deque()
    stream.on_bad = bad.append
    raw = (row for file in stream.parts[0].files for row in read_rows(file))
    try:
        for sample in stream:
            while bad:
                next(raw)
                yield bad.popleft()
            row = next(raw)
            assert isinstance(row, RawRow) and row.line == sample.line
            yield GoodRow(row, sample)
    except InputError as error:
        if error.code != "data.no_rows":
            raise
    finally:
        stream.on_bad = None
    yield from bad
