"""`slipway data check`: is the dataset good?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from slipway.cli import output
from slipway.cli.check_screen import show_check
from slipway.cli.data_options import (
    RowProgress,
    dataset_options,
    source_named,
    tokenizer_for,
)
from slipway.core.errors import EXIT_FAILED, EXIT_OK
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.datasets import CheckReport


@click.command(
    help=str(
        tr(
            "Check a dataset: every bad row with line, field and reason, duplicates, "
            "near-duplicates, held-out questions that leak into train, personal data, and what "
            "each row is worth to learn from."
        )
    )
)
@dataset_options
@click.option(
    "--rows",
    "rows_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Write every row with its score and reasons into this file, as JSON lines.")),
)
@click.option(
    "--min-quality",
    type=click.IntRange(0, 100),
    help=str(tr("Fail when the mean score of a split is below this.")),
)
@click.option("--strict", is_flag=True, help=str(tr("Fail also when there are warnings.")))
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help=str(tr("Processes that look at rows beside the one that reads. [default: one per core]")),
)
@click.option("--force", is_flag=True, help=str(tr("Overwrite the file of --rows if it is there.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def check(
    path: Path,
    dataset_dir: str | None,
    model: Path | None,
    cutoff_len: int,
    rows_file: Path | None,
    min_quality: int | None,
    strict: bool,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> int:
    from slipway.datasets import CheckOptions, check_dataset

    source = source_named(path, dataset_dir)
    progress = RowProgress()
    with _rows(rows_file, force=force) as file:
        options = CheckOptions(
            tokenizer=tokenizer_for(source, model),
            cutoff_len=cutoff_len,
            workers=max(1, os.cpu_count() or 1) if workers is None else workers,
            write=file.write if file else None,
            on_progress=progress,
        )
        report = check_dataset(source, options)
    progress.done()
    if as_json:
        output.print_json(report.as_json())
    else:
        show_check(report, rows_file)
    return EXIT_OK if _passes(report, min_quality, strict=strict) else EXIT_FAILED


@contextmanager
def _rows(path: Path | None, *, force: bool) -> Iterator[IO[bytes] | None]:
    from slipway.core.files import new_file

    if path is None:
        yield None
        return
    with new_file(path, force=force) as file:
        yield file


def _passes(report: CheckReport, min_quality: int | None, *, strict: bool) -> bool:
    low = [
        (name, split.quality.mean)
        for name, split in report.splits.items()
        if min_quality is not None and split.quality.mean < min_quality
    ]
    for name, mean in low:
        output.note(
            tr(
                "the mean score of {split} is {mean}, below --min-quality {wanted}",
                split=name,
                mean=mean,
                wanted=min_quality,
            )
        )
    if strict and report.warnings:
        output.note(tr("--strict: {count} warnings", count=len(report.warnings)))
    return report.ok and not low and not (strict and report.warnings)
