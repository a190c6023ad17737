"""Datasets read whole; see `open_samples` for what does not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipway.core.errors import InputError, NotFoundError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.datasets.digests import file_digest
from slipway.datasets.formats import Layout
from slipway.datasets.model import Format, RowProblem, Sample, Split
from slipway.datasets.rows import split_parts
from slipway.datasets.samples import Notes, read_samples


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file read whole: its good rows and everything wrong with the others.

    Attributes:
        unused_keys: top-level keys that the format does not use -> how many rows have them.
    """

    file: Path
    format: Format | None
    samples: list[Sample] = field(default_factory=list)
    problems: list[RowProblem] = field(default_factory=list)
    unused_keys: dict[str, int] = field(default_factory=dict)


def read_file(file: Path | Sequence[Path], layout: Layout | None = None) -> Loaded:
    """Read one file, or the parts of one split, to the end, collecting every problem."""
    files = (file,) if isinstance(file, Path) else tuple(file)
    notes = Notes()
    samples: list[Sample] = []
    problems: list[RowProblem] = []
    for row in read_samples(files, layout, notes):
        if isinstance(row, Sample):
            samples.append(row)
        else:
            problems.extend(row)
    return Loaded(files[0], notes.format, samples, problems, dict(notes.unused_keys))


def load_dataset(path: Path, split: Split = "train") -> list[Sample]:
    """The samples of one split, in file order.

    Args:
        path: a folder with `train.jsonl` and perhaps `heldout.jsonl`, or one file, which then is
            the train split; see `split_parts` for what else there may be.

    Raises:
        NotFoundError: no such dataset or split.
        InputError: the first bad row, with file, line, field and reason.
    """
    files = split_parts(path)
    if split not in files:
        raise no_split(str(path), split)
    loaded = read_file(files[split])
    if loaded.problems:
        raise bad_row(loaded.problems[0], more=len(loaded.problems) - 1, dataset=path)
    return loaded.samples


def no_split(dataset: str, split: Split) -> NotFoundError:
    """The error for a split that a dataset does not have."""
    return NotFoundError(
        "data.no_split",
        tr("{path} has no {split} split", path=dataset, split=split),
        tr("put the rows that are kept for the test into {split}.jsonl", split=split),
    )


def bad_row(problem: RowProblem, *, more: int | None, dataset: Path | str) -> InputError:
    """The error for a bad row.

    Args:
        more: how many other problems there are; None: nobody has looked.
    """
    hint = (
        tr(
            "see all problems with `slipway data check {path}`, or leave such rows out with "
            "`bad_rows: skip`",
            path=dataset,
        )
        if more is None
        else tr(
            "see all problems ({count}) with `slipway data check {path}`",
            count=more + 1,
            path=dataset,
        )
    )
    if problem.field:
        message = tr(
            "{place}: `{field}`: {reason}",
            place=problem.place,
            field=problem.field,
            reason=problem.reason,
        )
    else:
        message = tr("{place}: {reason}", place=problem.place, reason=problem.reason)
    return InputError("data.bad_row", message, hint)


def dataset_digest(path: Path) -> str:
    """`sha256:<hex>` over the bytes of the dataset's split files; its identity in a lineage."""
    return "sha256:" + sha256_json(
        {split: _digest(files) for split, files in split_parts(path).items()}
    )


def _digest(files: Sequence[Path]) -> str | list[str]:
    digests = [file_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else digests
