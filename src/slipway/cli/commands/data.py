"""`slipway data check|stats`: is the dataset good, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli import output
from slipway.cli.commands.data_cache import data_cache
from slipway.core.errors import EXIT_FAILED, EXIT_OK
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.datasets import CheckReport, DatasetStats, SimilarPair, SplitStats

SHOWN_PAIRS = 20
BAR_WIDTH = 40


@click.group(help=str(tr("Check datasets and show their statistics.")))
def data() -> None:
    pass


data.add_command(data_cache)


@data.command(
    help=str(
        tr(
            "Check a dataset: every bad row with line, field and reason, duplicates, "
            "near-duplicates, and held-out questions that leak into train."
        )
    )
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--dataset-dir",
    metavar="FOLDER",
    help=str(
        tr(
            "Folder of a dataset_info.json in which PATH is a name; ONLINE: PATH is a dataset on "
            "a hub."
        )
    ),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def check(path: Path, dataset_dir: str | None, as_json: bool) -> int:
    from slipway.datasets import check_dataset

    report = check_dataset(path, dataset_dir)
    if as_json:
        output.print_json(report.as_json())
    else:
        _print_check(report)
    return EXIT_OK if report.ok else EXIT_FAILED


def _print_check(report: CheckReport) -> None:
    for problem in report.errors:
        field = f" `{problem.field}`" if problem.field else ""
        print(f"{problem.place}:{field} {problem.reason}")
    for warning in report.warnings:
        print(f"{tr('warning')}: {warning}")
    for pair in report.near_duplicates[:SHOWN_PAIRS]:
        _print_pair(tr("nearly the same"), pair)
    rows = ", ".join(f"{split} {count}" for split, count in report.rows.items())
    print(tr("good rows: {rows}", rows=rows))
    names: dict[str, Text] = {
        "question": tr("most similar questions in train"),
        "conversation": tr("most similar conversations in train"),
        "leak": tr("held-out question nearest to train"),
    }
    for what, pair in report.most_similar.items():
        limit = report.thresholds[what]
        _print_pair(tr("{what} (limit {limit})", what=names[what], limit=limit), pair)
    if report.method == "minhash":
        print(tr("too many rows to compare every pair: MinHash proposed the pairs"))
    print(
        tr("ok: no errors") if report.ok else tr("not ok: {count} errors", count=len(report.errors))
    )


def _print_pair(title: Text, pair: SimilarPair) -> None:
    print(f"{title}: {pair.similarity:.2f}")
    for sample, text in ((pair.left, pair.left_text), (pair.right, pair.right_text)):
        print(f"  {sample.file.name}:{sample.line}  {_short(text)}")


def _short(text: str, width: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


@data.command(help=str(tr("Show a dataset in numbers; with --model also its tokens.")))
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help=str(tr("Model (folder or pulled base) whose tokenizer and template count the tokens.")),
)
@click.option(
    "--cutoff-len",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help=str(tr("Tokens at which training would cut a row.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def stats(path: Path, model: Path | None, cutoff_len: int, as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.datasets import dataset_stats, load_tokenizer

    pulled = Home.current().bases / model if model else None
    if model and pulled and not model.exists() and pulled.is_dir():
        model = pulled
    tokenizer = load_tokenizer(model) if model else None
    counted = dataset_stats(path, tokenizer, cutoff_len)
    if as_json:
        output.print_json(counted.as_json())
    else:
        _print_stats(counted)


def _print_stats(counted: DatasetStats) -> None:
    rows: dict[Text, list[object]] = {}
    for split in counted.splits.values():
        for name, value in _lines(split):
            key = next((known for known in rows if known.msgid == name.msgid), name)
            rows.setdefault(key, []).append(value)
    output.print_table(
        ["", *counted.splits], [[str(name), *values] for name, values in rows.items()]
    )
    for split_name, split in counted.splits.items():
        if split.topics:
            topics = ", ".join(f"{topic} {count}" for topic, count in split.topics.items())
            print(tr("topics ({split}): {topics}", split=split_name, topics=topics))
        if split.tokens:
            _print_tokens(split_name, split)
    print(tr("digest: {digest}", digest=counted.digest))


def _lines(split: SplitStats) -> list[tuple[Text, object]]:
    lines: list[tuple[Text, object]] = [
        (tr("rows"), split.rows),
        (tr("turns"), split.turns),
        (tr("single-turn rows"), split.single_turn),
        (tr("multi-turn rows"), split.multi_turn),
        (tr("rows with a system turn"), split.with_system),
        (tr("characters per row (mean / longest)"), f"{split.chars.mean} / {split.chars.max}"),
        (tr("words per row (mean / longest)"), f"{split.words.mean} / {split.words.max}"),
        (tr("share of Chinese, Japanese, Korean letters"), f"{split.cjk_share:.1%}"),
    ]
    if tokens := split.tokens:
        per = tokens.per_row
        lines += [
            (tr("tokens"), per.total),
            (
                tr("tokens per row (mean / p50 / p95 / longest)"),
                f"{per.mean} / {per.p50} / {per.p95} / {per.max}",
            ),
            (tr("learned tokens"), f"{tokens.learned} ({tokens.learned_share:.1%})"),
            (tr("rows longer than the cut-off"), len(tokens.over_cutoff)),
            (tr("rows with nothing left to learn"), len(tokens.dropped)),
        ]
    return lines


def _print_tokens(split_name: str, split: SplitStats) -> None:
    assert split.tokens is not None
    print(tr("tokens per row ({split}):", split=split_name))
    most = max((count for _, _, count in split.tokens.histogram), default=1)
    for start, end, count in split.tokens.histogram:
        bar = "█" * round(BAR_WIDTH * count / most)
        print(f"  {start:>6}–{end - 1:<6} {count:>5} {bar}")
    for row in split.tokens.over_cutoff:
        print(
            tr(
                "  {file}:{line} has {tokens} tokens, over the cut-off of {cutoff}",
                file=row.file,
                line=row.line,
                tokens=row.tokens,
                cutoff=split.tokens.cutoff_len,
            )
        )
