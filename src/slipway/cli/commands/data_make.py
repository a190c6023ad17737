"""`slipway data convert|mask|dedupe|split`: datasets made from datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slipway.cli import output
from slipway.cli.data_options import RowProgress, path_argument, registry_option, source_named
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.datasets.derive import Derived, Out

Command = TypeVar("Command", bound=Callable[..., Any])


def _output_options(command: Command) -> Command:
    """PATH, OUT, --dataset-dir, --type, --force and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document."))),
        click.option(
            "--force", is_flag=True, help=str(tr("Overwrite files that are there already."))
        ),
        click.option(
            "--type",
            "file_type",
            type=click.Choice(["jsonl", "json", "csv", "parquet"]),
            default="jsonl",
            show_default=True,
            help=str(tr("Type of the files, if OUT is a folder.")),
        ),
        registry_option,
        click.argument("out", type=click.Path(path_type=Path)),
        path_argument,
    ):
        command = option(command)
    return command


_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help=str(tr("Processes that look at rows beside the one that reads. [default: one per core]")),
)


def _workers(given: int | None) -> int:
    return max(1, os.cpu_count() or 1) if given is None else given


def _out(path: Path, file_type: str, *, force: bool) -> Out:
    from slipway.datasets.derive import Out

    return Out(path, f".{file_type}", force)


@click.command(
    help=str(
        tr(
            "Write a dataset in another format or type of file. What a format has no place for is "
            "an error, or with --lossy left out and named."
        )
    )
)
@_output_options
@click.option(
    "--to",
    "target",
    type=click.Choice(["openai", "sharegpt", "alpaca", "trl", "text"]),
    default="openai",
    show_default=True,
    help=str(tr("The format of the rows.")),
)
@click.option("--lossy", is_flag=True, help=str(tr("Leave out what the format cannot hold.")))
@click.option(
    "--register",
    "name",
    metavar="NAME",
    help=str(tr("Also name the file in a dataset_info.json beside it, as LLaMA Factory reads it.")),
)
def convert(
    path: Path,
    out: Path,
    dataset_dir: str | None,
    file_type: str,
    target: Any,
    lossy: bool,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    from slipway.datasets.derive import convert_dataset
    from slipway.datasets.register import register

    progress = RowProgress()
    derived = convert_dataset(
        source_named(path, dataset_dir),
        _out(out, file_type, force=force),
        target,
        lossy=lossy,
        on_progress=progress,
    )
    progress.done()
    registry = None
    if name is not None:
        for split, file in derived.files.items():
            entry = name if split == "train" else f"{name}_{split}"
            registry = register(file, entry, target, derived.columns, force=force)
    if as_json:
        output.print_json({**derived.as_json(), "registry": str(registry) if registry else None})
        return
    _show_written(derived)
    for loss, rows in derived.losses.items():
        print(tr("lost: `{field}` of {rows} rows", field=loss, rows=rows))
    for problem in derived.lost:
        print(f"  {problem.place}: `{problem.field}` {problem.reason}")
    if registry:
        print(tr("named in {path}", path=str(registry)))


def _show_written(derived: Derived) -> None:
    for problem in derived.problems.first:
        where = f" `{problem.field}`" if problem.field else ""
        output.note(f"{problem.place}:{where} {problem.reason}")
    if derived.problems.rows:
        print(tr("rows left out: {count}", count=derived.problems.rows))
    for split, file in derived.files.items():
        print(
            tr("{split}: {rows} rows in {file}", split=split, rows=derived.rows[split], file=file)
        )


@click.command(
    help=str(
        tr(
            "Replace personal data by placeholders such as [MOBILE_1]; within a row the same value "
            "gets the same one."
        )
    )
)
@_output_options
@click.option(
    "--kinds",
    metavar="KIND,...",
    help=str(
        tr(
            "What to replace: mobile, landline, phone_abroad, id_card, email, bank_card, ipv4. "
            "[default: all but ipv4]"
        )
    ),
)
def mask(
    path: Path,
    out: Path,
    dataset_dir: str | None,
    file_type: str,
    kinds: str | None,
    force: bool,
    as_json: bool,
) -> None:
    from slipway.datasets.derive import mask_dataset

    progress = RowProgress()
    derived, counts, rows = mask_dataset(
        source_named(path, dataset_dir),
        _out(out, file_type, force=force),
        _kinds(kinds),
        progress,
    )
    progress.done()
    if as_json:
        output.print_json({**derived.as_json(), "masked": dict(counts), "masked_rows": rows})
        return
    _show_written(derived)
    for kind, count in counts.most_common():
        print(tr("masked: {count} × {kind}", count=count, kind=kind))
    print(tr("rows with personal data: {count}", count=rows))


def _kinds(given: str | None) -> Any:
    from slipway.core.errors import UsageError
    from slipway.datasets.personal import KINDS, USUAL

    if given is None:
        return USUAL
    wanted = frozenset(kind.strip() for kind in given.split(",") if kind.strip())
    if unknown := wanted - set(KINDS):
        raise UsageError(
            "data.kind_unknown",
            tr("unknown kind of personal data: {kinds}", kinds=", ".join(sorted(unknown))),
            tr("known kinds: {kinds}", kinds=", ".join(KINDS)),
        )
    return wanted


@click.command(
    help=str(
        tr(
            "Leave out rows that are the same as another, or nearly: of those alike the one with "
            "the best score stays."
        )
    )
)
@_output_options
@click.option("--exact", is_flag=True, help=str(tr("Only rows that are the same.")))
@click.option(
    "--threshold",
    type=click.FloatRange(0.5, 1.0),
    default=0.85,
    show_default=True,
    help=str(tr("How alike (Jaccard index) two conversations are for one of them to go.")),
)
@click.option(
    "--keep-leaks", is_flag=True, help=str(tr("Keep rows of train that a held-out question asks."))
)
@click.option(
    "--removed",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Write what was left out, and the row that stays for it, into this file.")),
)
@_workers_option
def dedupe(
    path: Path,
    out: Path,
    dataset_dir: str | None,
    file_type: str,
    exact: bool,
    threshold: float,
    keep_leaks: bool,
    removed: Path | None,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    from slipway.datasets.derive import DedupeOptions, dedupe_dataset

    progress = RowProgress()
    options = DedupeOptions(not exact, threshold, not keep_leaks, _workers(workers), removed)
    derived, plan = dedupe_dataset(
        source_named(path, dataset_dir), _out(out, file_type, force=force), options, progress
    )
    progress.done()
    if as_json:
        output.print_json({**derived.as_json(), "removed": dict(plan.counts)})
        return
    _show_written(derived)
    words = {
        "same": tr("the same as another row"),
        "near": tr("nearly the same as another row"),
        "leak": tr("asked by a held-out row"),
    }
    for why, count in plan.counts.items():
        print(tr("removed: {count} rows, {why}", count=count, why=words[why]))
    if not plan.removed:
        print(tr("no row was removed"))


@click.command(
    help=str(
        tr(
            "Divide a dataset into train and held-out. Rows that are alike stay on one side, so "
            "nothing leaks."
        )
    )
)
@_output_options
@click.option(
    "--heldout",
    "size",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help=str(tr("Rows to hold out: a part below 1, or a number.")),
)
@click.option("--seed", type=int, default=0, show_default=True, help=str(tr("Decides which.")))
@click.option(
    "--stratify",
    metavar="topic|language|column:NAME",
    help=str(tr("Hold out the same part of each topic, language, or value of a column.")),
)
@click.option(
    "--group-by",
    metavar="COLUMN",
    help=str(tr("Rows with the same value in this column stay on one side.")),
)
@_workers_option
def split(
    path: Path,
    out: Path,
    dataset_dir: str | None,
    file_type: str,
    size: float,
    seed: int,
    stratify: str | None,
    group_by: str | None,
    workers: int | None,
    force: bool,
    as_json: bool,
) -> None:
    from slipway.core.errors import UsageError
    from slipway.datasets.derive import SplitOptions, split_dataset

    if stratify not in (None, "topic", "language") and not str(stratify).startswith("column:"):
        raise UsageError(
            "data.stratify",
            tr("--stratify needs topic, language or column:NAME, not {given}", given=stratify),
        )
    progress = RowProgress()
    options = SplitOptions(size, seed, stratify, group_by, _workers(workers))
    derived, division = split_dataset(
        source_named(path, dataset_dir), _out(out, file_type, force=force), options, progress
    )
    progress.done()
    if as_json:
        output.print_json(
            {
                **derived.as_json(),
                "wanted": division.wanted,
                "groups": division.groups,
                "largest_group": division.largest,
            }
        )
        return
    _show_written(derived)
    print(
        tr(
            "groups of rows that are alike: {groups}, the largest of {largest} rows",
            groups=division.groups,
            largest=division.largest,
        )
    )
    if derived.rows["heldout"] < division.wanted:
        output.note(
            tr(
                "{wanted} rows were to be held out; groups that do not fit stayed in train",
                wanted=division.wanted,
            )
        )
