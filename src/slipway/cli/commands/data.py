"""`slipway data ...`: is a dataset good, what is in it, and other datasets made from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli import output
from slipway.cli.check_screen import print_tokens
from slipway.cli.commands.data_cache import data_cache
from slipway.cli.commands.data_check import check
from slipway.cli.commands.data_make import convert, dedupe, mask, split
from slipway.cli.commands.data_preview import preview
from slipway.cli.data_options import dataset_options, source_named, tokenizer_for
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.datasets import DatasetStats, SplitStats


@click.group(help=str(tr("Check datasets, show them, and make others from them.")))
def data() -> None:
    pass


data.add_command(data_cache)
data.add_command(check)
data.add_command(preview)
for _command in (convert, mask, dedupe, split):
    data.add_command(_command)


@data.command(help=str(tr("Show a dataset in numbers; with --model also its tokens.")))
@dataset_options
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def stats(
    path: Path, dataset_dir: str | None, model: Path | None, cutoff_len: int, as_json: bool
) -> None:
    from slipway.datasets import dataset_stats

    source = source_named(path, dataset_dir)
    counted = dataset_stats(source, tokenizer_for(source, model), cutoff_len)
    if as_json:
        output.print_json(counted.as_json())
    else:
        _print_stats(counted)


def _print_stats(counted: DatasetStats) -> None:
    rows: dict[Text, list[object]] = {}
    for one in counted.splits.values():
        for name, value in _lines(one):
            key = next((known for known in rows if known.msgid == name.msgid), name)
            rows.setdefault(key, []).append(value)
    output.print_table(
        ["", *counted.splits], [[str(name), *values] for name, values in rows.items()]
    )
    for split_name, one in counted.splits.items():
        if one.topics:
            topics = ", ".join(f"{topic} {count}" for topic, count in one.topics.items())
            print(tr("topics ({split}): {topics}", split=split_name, topics=topics))
        if one.tokens:
            print_tokens(split_name, one.tokens)
    print(tr("digest: {digest}", digest=counted.digest))


def _lines(split: SplitStats) -> list[tuple[Text, object]]:
    kinds = ", ".join(f"{kind} {rows}" for kind, rows in split.kinds.items())
    lines: list[tuple[Text, object]] = [
        (tr("rows"), split.rows),
        (tr("kinds of rows"), kinds),
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
            (tr("rows longer than the cut-off"), tokens.over_count),
            (tr("rows with nothing left to learn"), tokens.dropped_count),
        ]
    return lines
