"""`slipway runs compare`: what was set differently, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slipway.cli import output
from slipway.cli.run_text import number
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home


@click.command(
    "compare",
    help=str(
        tr(
            "Compare runs: the settings in which they differ, their metrics (against the first "
            "run and against the base), and their loss curves in one picture."
        )
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "-o",
    "--output",
    "png",
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Where the picture goes. Default: SLIPWAY_HOME/runs/compare-....png")),
)
@click.option("--no-picture", is_flag=True, help=str(tr("Draw no picture.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def compare_runs(names: tuple[str, ...], png: Path | None, no_picture: bool, as_json: bool) -> None:
    from slipway.jobs import Runs, compare
    from slipway.jobs.summary import EVENTS

    home = Home.current()
    with Runs(home) as runs:
        found = [runs.find(name) for name in dict.fromkeys(names)]
    result = compare(found)
    picture = png or home.runs / f"compare-{'-'.join(run.id for run in found)}.png"
    if not no_picture:
        from slipway.training.curve import draw_overlay

        draw_overlay([(run.name, run.folder / EVENTS) for run in found], picture)
    if as_json:
        output.print_json(
            {
                "runs": [{"id": run.id, "name": run.name, "state": run.state} for run in found],
                "settings": result.settings,
                "metrics": result.metrics,
                "change": result.change,
                "against_base": result.against_base,
                "picture": None if no_picture else str(picture),
            }
        )
        return
    columns: list[Text | str] = [tr("KEY"), *(run.name for run in found)]
    rows: list[list[Any]] = [
        [key, *("" if value is None else value for value in values)]
        for key, values in result.settings.items()
    ]
    if rows:
        output.print_table(columns, rows)
    else:
        output.note(tr("they were set alike"))
    output.print_table(
        [tr("METRIC"), *(run.name for run in found)],
        [
            *(
                [name, *(_cell(v, c) for v, c in zip(values, result.change[name], strict=True))]
                for name, values in result.metrics.items()
            ),
            [str(tr("against the base")), *(_percent(v) for v in result.against_base)],
        ],
    )
    if not no_picture:
        print(tr("picture: {path}", path=str(picture)))


def _cell(value: float | None, change: float | None) -> str:
    if value is None:
        return "-"
    return f"{number(value)} ({_percent(change)})" if change else number(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
