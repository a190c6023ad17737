"""Datasets made from datasets: converted, masked, without duplicates, divided. Row by row, written
whole or not at all; rows that cannot be read are left out and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, UsageError
from slipway.core.i18n import tr
from slipway.datasets.convert_rows import Target, convert
from slipway.datasets.dedupe import Dedupe, plan_dedupe
from slipway.datasets.growing import Growing
from slipway.datasets.look import look_at
from slipway.datasets.mask_rows import mask_row
from slipway.datasets.model import RowProblem, Sample, Split
from slipway.datasets.open import SampleStream
from slipway.datasets.opened import GoodRow, Problems, open_splits, rows_in_step
from slipway.datasets.personal import PersonalKind
from slipway.datasets.row_files import WRITABLE, Row, check_writable, row_file
from slipway.datasets.scan import LANGUAGE, Scan
from slipway.datasets.shingles import numpy_module
from slipway.datasets.source import DataSource
from slipway.datasets.split_rows import Division, plan_split

_NAMED = 20
_NOT_WRITABLE = (".txt", ".tsv", ".arrow", ".feather", ".xlsx", ".gz", ".zst")
OnProgress = Callable[[int], None]


@dataclass(slots=True)
class Derived:
    """What was written.

    Attributes:
        files: split -> file; rows: split -> rows in it.
        problems: rows that could not be read, or were left out for another reason.
        losses: what rows lost: field -> rows; `lost` are the first of them.
        columns: all columns of the rows written.
    """

    files: dict[Split, Path]
    rows: Counter[Split] = field(default_factory=Counter)
    problems: Problems = field(default_factory=lambda: Problems(_NAMED))
    losses: Counter[str] = field(default_factory=Counter)
    lost: list[RowProblem] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "files": {split: str(path) for split, path in self.files.items()},
            "rows": dict(self.rows),
            "left_out": self.problems.rows,
            "problems": [problem.as_json() for problem in self.problems.first],
            "lost_fields": dict(self.losses),
            "lost": [problem.as_json() for problem in self.lost],
        }


@dataclass(frozen=True, slots=True)
class Out:
    """Where a dataset is to be written.

    Attributes:
        path: a file, for a dataset of one split; else a folder.
        type: of the files in a folder, such as `.jsonl`.
        force: overwrite.
    """

    path: Path
    type: str = ".jsonl"
    force: bool = False

    def files(self, splits: Sequence[Split]) -> dict[Split, Path]:
        """The file of each split, none of which may be there.

        Raises:
            UsageError: a file is named for several splits, or of an unknown type.
            ConflictError: one is there, and `force` is not set.
        """
        single = self.path.suffix.lower() in (*WRITABLE, *_NOT_WRITABLE)
        if single and len(splits) > 1:
            raise UsageError(
                "data.two_splits",
                tr("the dataset has the splits {splits}", splits=" and ".join(splits)),
                tr("give a folder instead of the file {path}", path=str(self.path)),
            )
        found = (
            {splits[0]: self.path}
            if single
            else {split: self.path / f"{split}{self.type}" for split in splits}
        )
        for path in found.values():
            check_writable(path, force=self.force)
        return found


def _write(
    streams: dict[Split, SampleStream],
    derived: Derived,
    out: Out,
    each: Callable[[Split, int, GoodRow], tuple[Split, Row] | None],
    on_progress: OnProgress | None,
) -> None:
    """Write every row that `each` gives; it gets the row's number over all splits."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(row_file(path, force=out.force))
            for split, path in derived.files.items()
        }
        number = 0
        for split, stream in streams.items():
            for row in rows_in_step(stream):
                if not isinstance(row, GoodRow):
                    derived.problems.row(row)
                    continue
                made = each(split, number, row)
                number += 1
                if on_progress and number % 1000 == 0:
                    on_progress(number)
                if made is None:
                    continue
                derived.columns.update(made[1])
                derived.rows[made[0]] += 1
                writers[made[0]].write(made[1])
        if not derived.rows:
            raise InputError("data.nothing", tr("no row is left to write"))


def convert_dataset(
    source: DataSource,
    out: Out,
    target: Target,
    *,
    lossy: bool = False,
    on_progress: OnProgress | None = None,
) -> Derived:
    """Write a dataset in another format.

    Args:
        lossy: what the format has no place for is left out and named; else it is an error.

    Raises:
        InputError: a row would lose something, and `lossy` is not set.
        SlipwayError: see `open_splits`, `Out.files`.
    """
    streams = open_splits(source)
    derived = Derived(out.files(list(streams)))

    def each(split: Split, number: int, row: GoodRow) -> tuple[Split, Row] | None:
        done = convert(row.sample, target)
        problems = [
            RowProblem(row.raw.file, row.raw.line, loss.field, "lossy", loss.reason)
            for loss in done.losses
        ]
        if problems and not lossy:
            raise _lossy(problems[0], target)
        if done.row is None:
            derived.problems.row(tuple(problems))
            return None
        derived.losses.update({problem.field.split("[")[0] for problem in problems})
        derived.lost += problems[: max(0, _NAMED - len(derived.lost))]
        return split, done.row

    _write(streams, derived, out, each, on_progress)
    return derived


def _lossy(problem: RowProblem, target: Target) -> InputError:
    return InputError(
        "data.lossy",
        tr(
            "{place}: the format {target} has no place for `{field}`: {reason}",
            place=problem.place,
            target=target,
            field=problem.field,
            reason=problem.reason,
        ),
        tr("choose another format with --to, or let such parts go, named, with --lossy"),
    )


def mask_dataset(
    source: DataSource,
    out: Out,
    kinds: frozenset[PersonalKind],
    on_progress: OnProgress | None = None,
) -> tuple[Derived, Counter[PersonalKind], int]:
    """Write a dataset with its personal data replaced; rows keep their columns and order.

    Returns:
        What was written, pieces replaced by kind, and rows that had any.
    """
    streams = open_splits(source)
    derived = Derived(out.files(list(streams)))
    counts: Counter[PersonalKind] = Counter()
    rows = 0

    def each(split: Split, number: int, row: GoodRow) -> tuple[Split, Row]:
        nonlocal rows
        masked, found = mask_row(row.raw.value, kinds)
        counts.update(found)
        rows += bool(found)
        return split, masked

    _write(streams, derived, out, each, on_progress)
    return derived, counts, rows


@dataclass(frozen=True, slots=True)
class DedupeOptions:
    """See `plan_dedupe`; `removed` is a file that gets a line for each row left out."""

    near: bool = True
    threshold: float = 0.85
    leaks: bool = True
    workers: int = 0
    removed: Path | None = None


def dedupe_dataset(
    source: DataSource, out: Out, options: DedupeOptions, on_progress: OnProgress | None = None
) -> tuple[Derived, Dedupe]:
    """Write a dataset without rows that are the same as a better one, or nearly."""
    streams = open_splits(source)
    derived = Derived(out.files(list(streams)))
    if options.removed:
        check_writable(options.removed, force=out.force)
    with Scan(numpy_module()) as scan:
        for split, stream in streams.items():
            for batch in look_at(_samples(stream), options.workers):
                scan.add(split, batch)
                if on_progress:
                    on_progress(len(scan))
        plan = plan_dedupe(
            scan, near=options.near, threshold=options.threshold, leaks=options.leaks
        )

        def each(split: Split, number: int, row: GoodRow) -> tuple[Split, Row] | None:
            return None if number in plan.removed else (split, row.raw.value)

        _write(streams, derived, out, each, None)
        if options.removed:
            _write_removed(options.removed, scan, plan, force=out.force)
    return derived, plan


def _write_removed(path: Path, scan: Scan, plan: Dedupe, *, force: bool) -> None:
    with row_file(path, force=force) as writer:
        for number in sorted(plan.removed):
            gone = plan.removed[number]
            row, keeper = scan.row(number), scan.row(gone.keeper)
            writer.write(
                {
                    "row": row.place,
                    "id": row.id,
                    "why": gone.why,
                    "kept": keeper.place,
                    "similarity": round(gone.similarity, 4),
                    "text": row.head,
                }
            )


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to divide.

    Attributes:
        size: below 1 a part of the rows, else their number.
        stratify: each topic, language or value of a column (`column:NAME`) gives its share.
        group_by: rows with the same value in this column stay together.
    """

    size: float
    seed: int = 0
    stratify: str | None = None
    group_by: str | None = None
    workers: int = 0


def split_dataset(
    source: DataSource, out: Out, options: SplitOptions, on_progress: OnProgress | None = None
) -> tuple[Derived, Division]:
    """Divide the rows of a dataset into train and held-out; a held-out split it has is not read.

    Raises:
        InputError: a column is in no row, or nothing can be held out.
    """
    stream = open_splits(source)["train"]
    splits: tuple[Split, ...] = ("train", "heldout")
    if out.path.suffix.lower() in WRITABLE:
        raise UsageError(
            "data.split_folder",
            tr("a split is a folder with two files, not {path}", path=str(out.path)),
        )
    derived = Derived(out.files(splits))
    with Scan(numpy_module()) as scan:
        labels = _Labels(scan.np, options)
        for batch in look_at(labels.through(stream), options.workers):
            scan.add("train", batch)
            if on_progress:
                on_progress(len(scan))
        division = plan_split(
            scan,
            options.size,
            options.seed,
            strata=labels.strata(scan),
            keys=labels.keys(),
        )

    def each(split: Split, number: int, row: GoodRow) -> tuple[Split, Row]:
        return splits[int(division.heldout[number])], row.raw.value

    _write({"train": stream}, derived, out, each, None)
    return derived, division


class _Labels:
    """Numbers for the topic of each row, or for what stands in its columns."""

    def __init__(self, np: Any, options: SplitOptions) -> None:
        self._options = options
        self._numbers: dict[str, int] = {}
        self._strata = Growing(np, np.int64)
        self._keys = Growing(np, np.int64)

    def through(self, stream: SampleStream) -> Iterator[Sample]:
        """The samples, with their labels noted."""
        stratify, group_by = self._options.stratify, self._options.group_by
        column = stratify.partition(":")[2] if stratify else ""
        for row in rows_in_step(stream):
            if not isinstance(row, GoodRow):
                continue
            label = row.raw.value.get(column) if column else row.sample.topic
            self._strata.extend([self._number(f"{label}")])
            if group_by:
                key = row.raw.value.get(group_by)
                self._keys.extend([-1 if key is None else self._number(f"\x00{key}")])
            yield row.sample

    def _number(self, label: str) -> int:
        return self._numbers.setdefault(label, len(self._numbers))

    def strata(self, scan: Scan) -> list[int] | None:
        """The stratum of each row; None: all are one."""
        if self._options.stratify is None:
            return None
        if self._options.stratify == "language":
            return [int(n) for n in scan.column(LANGUAGE)]
        return [int(n) for n in self._strata.array]

    def keys(self) -> list[int] | None:
        """The group of each row; None: there is no column."""
        if self._options.group_by is None:
            return None
        keys = [int(n) for n in self._keys.array]
        if not any(key >= 0 for key in keys):
            raise InputError(
                "data.no_column",
                tr("no row has the column `{column}`", column=self._options.group_by),
            )
        return keys


def _samples(stream: SampleStream) -> Iterator[Sample]:
    for row in rows_in_step(stream):
        if isinstance(row, GoodRow):
            yield row.sample
