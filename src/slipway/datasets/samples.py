"""Rows of files into samples: the format recognised, every row held to the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from slipway.core.i18n import tr
from slipway.datasets.formats import LAYOUTS, PARSERS, FieldProblems, Layout, detect
from slipway.datasets.model import Format, RawRow, RowProblem, Sample
from slipway.datasets.rows import read_rows
from slipway.datasets.rules import faults

_LOOKED_AT = 1000
"""First rows that decide the format of a dataset."""

Bad = tuple[RowProblem, ...]
"""Everything wrong with one row."""


@dataclass(slots=True)
class Notes:
    """What is found out while reading.

    Attributes:
        format: the recognised format, None when no row tells one.
        unused_keys: top-level keys that the format does not use -> how many rows have them.
    """

    format: Format | None = None
    unused_keys: Counter[str] = field(default_factory=Counter)


def read_samples(
    files: Sequence[Path],
    layout: Layout | None = None,
    notes: Notes | None = None,
    picks: Callable[[int], int] | None = None,
) -> Iterator[Sample | Bad]:
    """The samples of a dataset in order, and in their places the rows that are none.

    Memory does not grow with the rows, but for 100 bytes for each row that has its own `id`.

    Args:
        layout: where rows keep their parts; None: recognised by the first rows.
        notes: filled while reading.
        picks: number of a row, from 0 -> how often it is given; other rows are passed over.

    Raises:
        SlipwayError: a file cannot be opened, or a package for it is missing.
    """
    notes = notes if notes is not None else Notes()
    rows: Iterator[RawRow | RowProblem] = chain.from_iterable(read_rows(file) for file in files)
    if layout is None:
        first = list(islice(rows, _LOOKED_AT))
        good = [row for row in first if isinstance(row, RawRow)]
        format = detect(row.value for row in good)
        if format is None:
            yield from ((row,) for row in first if isinstance(row, RowProblem))
            if good:
                reason = tr(
                    "a row needs `messages` (OpenAI), `conversations` (ShareGPT), `instruction` "
                    "(Alpaca), `prompt` (TRL) or `text`"
                )
                yield (RowProblem(good[0].file, good[0].line, "", "unknown_format", reason),)
            return
        layout = LAYOUTS[format]
        rows = chain(first, rows)
    notes.format = layout.format
    yield from _samples(rows, layout, notes, picks)


def _samples(
    rows: Iterable[RawRow | RowProblem],
    layout: Layout,
    notes: Notes,
    picks: Callable[[int], int] | None,
) -> Iterator[Sample | Bad]:
    keys = layout.keys()
    ids: dict[int, int] = {}
    for number, row in enumerate(rows):
        times = 1 if picks is None else picks(number)
        if not times:
            continue
        if isinstance(row, RowProblem):
            yield (row,)
            continue
        if not row.value.keys() <= keys:
            notes.unused_keys.update(row.value.keys() - keys)
        made = _sample(row, layout, ids)
        yield made
        for time in range(2, times + 1):
            if isinstance(made, Sample):
                yield replace(made, id=f"{made.id}~{time}")


def _sample(row: RawRow, layout: Layout, ids: dict[int, int]) -> Sample | Bad:
    try:
        parsed = PARSERS[layout.format](row.value, layout)
    except FieldProblems as error:
        return tuple(RowProblem(row.file, row.line, *fault) for fault in error.problems)
    found = list(faults(parsed, layout))
    if parsed.id:
        # 64 bits of a hash instead of the id: a false alarm once in 10^8 datasets of a million
        key = hash((row.file, parsed.id))
        if key in ids:
            reason = tr("the id `{id}` was used in line {line}", id=parsed.id, line=ids[key])
            found.append(("id", "duplicate_id", reason))
        ids.setdefault(key, row.line)
    if found:
        return tuple(RowProblem(row.file, row.line, *fault) for fault in found)
    return Sample(
        parsed.id or f"{row.file.stem}:{row.line}",
        tuple(message for _, message in parsed.messages),
        row.file,
        row.line,
        parsed.topic,
        parsed.tools,
        parsed.chosen[1] if parsed.chosen else None,
        parsed.rejected[1] if parsed.rejected else None,
        parsed.desirable,
        parsed.text,
    )


def count_rows(files: Sequence[Path]) -> int:
    """How many rows lie in files, bad ones included."""
    return sum(1 for file in files for _ in read_rows(file))
