"""Datasets as one stream of samples that does not grow in memory and can be read again."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import InputError, UsageError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.datasets.digests import file_digest
from slipway.datasets.formats import Layout
from slipway.datasets.hub import OnFetch
from slipway.datasets.load import bad_row, no_split
from slipway.datasets.mix import Mix, mixed
from slipway.datasets.model import RowProblem, Sample, Split
from slipway.datasets.registry import find_dataset
from slipway.datasets.registry_split import Span
from slipway.datasets.rows import split_parts
from slipway.datasets.samples import Bad, Notes, count_rows, read_samples
from slipway.datasets.source import DataSource

BadRows = Literal["stop", "skip"]

_READING = 1
"""Raised when the same files give other samples than before, so that cached tokens are not used."""
_MAX_KEPT = 1000
_Origin = int | tuple[Path, int]
"""A row: its number in a stream, or where a row may come twice its file and line."""


@dataclass(frozen=True, slots=True)
class Part:
    """One dataset of a stream, found.

    Attributes:
        asked: what `slipway data check` is to be given for it.
        layout: what the registry says of its columns; None: recognised by the rows.
        limit: the first so many samples.
        span: the part of the rows that is taken; None: all.
        draw: so many of those drawn at random, more than there are with repetition.
    """

    name: str
    files: tuple[Path, ...]
    asked: str
    layout: Layout | None = None
    weight: float = 1.0
    limit: int | None = None
    span: Span | None = None
    draw: int | None = None

    def identity(self) -> dict[str, Any]:
        """What decides its samples: the bytes of its files, its columns, and which rows."""
        return {
            "files": [[file.name, file_digest(file)] for file in self.files],  # ids hold names
            "layout": repr(self.layout),
            "rows": [repr(self.span), self.draw],
        }


class SampleStream:
    """Samples of one or several datasets; each iteration reads the files from the start.

    Attributes:
        problems: what was wrong with rows that were left out by the last iteration, the first
            1,000 of them.
        problem_count: rows that the last iteration left out.
        unused_keys: top-level keys that no format uses -> rows that have them.
        on_bad: called with every row that is left out, also beyond the first 1,000.
    """

    def __init__(self, parts: Sequence[Part], mix: Mix, seed: int, bad_rows: BadRows) -> None:
        self.parts = tuple(parts)
        self._mix: Mix = mix
        self._seed = seed
        self._bad_rows: BadRows = bad_rows
        self.problems: list[RowProblem] = []
        self.problem_count = 0
        self.unused_keys: Counter[str] = Counter()
        self.on_bad: Callable[[Bad], None] | None = None

    @property
    def repeats(self) -> bool:
        """Whether a row may come more than once."""
        files = [file for part in self.parts for file in part.files]
        drawn = any(part.draw is not None for part in self.parts)
        again = self._mix == "interleave_over" and len(self.parts) > 1
        return drawn or again or len(set(files)) < len(files)

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of all that decides the samples: files, columns, mixture, seed, limits."""
        parts = [
            {**part.identity(), "name": part.name, "numbers": [part.weight, part.limit]}
            for part in self.parts
        ]
        rule = [_READING, self._mix, self._seed, self._bad_rows]
        return "sha256:" + sha256_json({"parts": parts, "rule": rule})

    def __iter__(self) -> Iterator[Sample]:
        self.problems, self.problem_count, self.unused_keys = [], 0, Counter()
        first = [True] * len(self.parts)

        def start(number: int) -> Iterator[Sample]:
            counted, first[number] = first[number], False
            return self._samples(self.parts[number], counted=counted)

        starts: list[Callable[[], Iterator[Sample]]] = [
            partial(start, number) for number in range(len(self.parts))
        ]
        given = 0
        weights = [part.weight for part in self.parts]
        for sample in mixed(starts, weights, self._mix, self._seed):
            given += 1
            yield sample
        if not given:
            raise self._nothing()

    def _samples(self, part: Part, *, counted: bool) -> Iterator[Sample]:
        """The samples of a part; bad rows are noted if `counted`."""
        notes = Notes()
        rows = read_samples(part.files, part.layout, notes, self._picks(part))
        good = (
            row for row in rows if isinstance(row, Sample) or self._left_out(part, row, counted)
        )
        several = len(self.parts) > 1
        for sample in islice(good, part.limit):
            assert isinstance(sample, Sample)
            if several:
                sample = replace(sample, id=f"{part.name}/{sample.id}", source=part.name)
            yield sample
        if counted:
            self.unused_keys.update(notes.unused_keys)

    def _left_out(self, part: Part, row: Bad, counted: bool) -> bool:
        """Note a bad row; never true."""
        if self._bad_rows == "stop":
            raise bad_row(row[0], more=None, dataset=part.asked)
        if counted:
            if self.on_bad:
                self.on_bad(row)
            self.problem_count += 1
            self.problems += row[: _MAX_KEPT - len(self.problems)]
        return False

    def _picks(self, part: Part) -> Callable[[int], int] | None:
        """Number of a row, from 0 -> how often it is given; None: each once."""
        if part.draw is None and part.span is None:
            return None
        count = count_rows(part.files)
        rows = part.span.rows(count) if part.span else range(count)
        if part.draw is None:
            return rows.__contains__
        rng = random.Random(f"draw:{self._seed}:{part.name}")
        drawn = rng.sample(rows, min(len(rows), part.draw))
        if rows:
            drawn += rng.choices(rows, k=part.draw - len(drawn))
        return Counter(drawn[: part.limit]).__getitem__

    def _nothing(self) -> InputError:
        names = ", ".join(str(part.files[0]) for part in self.parts)
        message = tr("{path} has no row that can be used", path=names)
        if self.problems:
            worst = self.problems[0]
            message = tr(
                "none of the {count} rows of {path} can be used; the first: {place}: {reason}",
                count=self.problem_count,
                path=names,
                place=worst.place,
                reason=worst.reason,
            )
        hint = tr("see all problems with `slipway data check {path}`", path=self.parts[0].asked)
        return InputError("data.no_rows", message, hint)

    def divided(self, val_size: float, seed: int) -> tuple[DividedStream, DividedStream]:
        """Two streams: the samples to learn from, and `val_size` of them kept apart.

        A row that comes several times (drawn with repetition, or named twice) is on one side only.

        Args:
            val_size: below 1 a part of the rows, else their number.
            seed: decides which.

        Raises:
            UsageError: `val_size` is 0 or less.
        """
        if val_size <= 0:
            raise UsageError("data.val_size", tr("val_size must be above 0, not {n}", n=val_size))
        division = _Division(self, val_size, seed)
        return DividedStream(division, kept=False), DividedStream(division, kept=True)


@dataclass(frozen=True)
class _Division:
    """Which rows of a stream are kept apart; counted once for both sides, when first needed."""

    stream: SampleStream
    val_size: float
    seed: int

    @cached_property
    def chosen(self) -> frozenset[_Origin]:
        if self.stream.repeats:
            rows: Sequence[_Origin] = list(
                dict.fromkeys((sample.file, sample.line) for sample in self.stream)
            )
        else:
            rows = range(sum(1 for _ in self.stream))
        size = self.val_size
        wanted = math.ceil(len(rows) * size) if size < 1 else int(size)
        if wanted >= len(rows):
            raise InputError(
                "data.val_size",
                tr(
                    "val_size keeps {kept} of {rows} rows: none is left",
                    kept=wanted,
                    rows=len(rows),
                ),
                tr("lower `val_size`"),
            )
        return frozenset(random.Random(f"val:{self.seed}").sample(rows, wanted))


class DividedStream:
    """One side of a stream that is divided by chance; see `SampleStream.divided`."""

    def __init__(self, division: _Division, *, kept: bool) -> None:
        self._division = division
        self._stream = division.stream
        self._kept = kept

    @property
    def digest(self) -> str:
        """The whole stream's digest and the division."""
        rule = [self._stream.digest, self._division.val_size, self._division.seed, self._kept]
        if self._stream.repeats:
            rule.append("each row on one side")
        return "sha256:" + sha256_json(rule)

    @property
    def problems(self) -> list[RowProblem]:
        """The whole stream's; a side of kept rows has none, so that they are told once."""
        return [] if self._kept else self._stream.problems

    @property
    def problem_count(self) -> int:
        """The whole stream's; see `problems`."""
        return 0 if self._kept else self._stream.problem_count

    @property
    def unused_keys(self) -> Counter[str]:
        """The whole stream's; see `problems`."""
        return Counter() if self._kept else self._stream.unused_keys

    def __iter__(self) -> Iterator[Sample]:
        chosen = self._division.chosen
        given: set[_Origin] = set()
        for number, sample in enumerate(self._stream):
            row = (sample.file, sample.line) if self._stream.repeats else number
            if (row in chosen) == self._kept and row not in given:
                if self._kept:  # once, however often the stream has it
                    given.add(row)
                yield sample


def open_samples(
    sources: Sequence[DataSource],
    split: Split = "train",
    *,
    mix: Mix = "concat",
    seed: int = 0,
    max_samples: int | None = None,
    bad_rows: BadRows = "stop",
    stage: str | None = "sft",
) -> SampleStream:
    """Open datasets as one stream.

    Args:
        sources: files, folders, or names in a registry.
        split: `heldout` takes those of the sources that have such a split.
        mix: how several are put together; see `mix.mixed`.
        seed: of the mixture and of rows drawn at random.
        max_samples: the first so many of each source that sets no `max_samples` of its own.
        bad_rows: rows that break the rules are an error when they are reached, or left out,
            counted and named.
        stage: what is learned, since a registry's datasets fit one stage or another; None: each
            is read as what it is made for.

    Raises:
        NotFoundError: no such dataset or split.
        UsageError: weights without a mixture that looks at them, or a registry's fault.
    """
    if mix == "concat" and len({source.weight for source in sources}) > 1:
        raise UsageError(
            "data.weights",
            tr("datasets have weights, but `mix: concat` takes all rows of each"),
            tr("set `mix` to interleave_under, interleave_over or interleave_once"),
        )
    parts = [part for source in sources if (part := part_of(source, split, stage, max_samples))]
    if not parts:
        raise no_split(", ".join(source.path for source in sources), split)
    return SampleStream(parts, mix, seed, bad_rows)


def fetch_sources(sources: Sequence[DataSource], on_fetch: OnFetch) -> None:
    """Bring what lies on a hub into the cache, so that whoever opens the sources need not wait.

    Raises:
        SlipwayError: see `find_dataset`.
    """
    for source in sources:
        if source.info is not None:
            find_dataset(source.info, source.path, on_fetch=on_fetch)


def part_of(
    source: DataSource,
    split: Split = "train",
    stage: str | None = None,
    max_samples: int | None = None,
) -> Part | None:
    """The part that a source names; None when it has no such split. See `open_samples`.

    Raises:
        SlipwayError: there is no such dataset, or a registry does not hold what it should.
    """
    limit = source.max_samples or max_samples
    if source.info is not None:
        if split != "train":  # a registry names what is kept for the test as a dataset of its own
            return None
        found = find_dataset(source.info, source.path, stage)
        return Part(
            source.path,
            found.files,
            source.arguments,
            found.layout,
            source.weight,
            limit,
            found.span,
            found.draw,
        )
    path = Path(source.path).expanduser()
    files = split_parts(path).get(split)
    if not files:
        return None
    name = path.stem if path.is_file() else path.resolve().name
    return Part(name, files, str(files[0]), None, source.weight, limit)
