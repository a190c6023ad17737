"""`slipway top`: what the daemon is doing, as it does it."""

from __future__ import annotations

import sys
import time

import click

from slipway.cli.connect import connect, url_option
from slipway.core.i18n import tr


@click.command(help=str(tr("Watch the daemon: models, slots, queue, tokens per second, memory.")))
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help=str(tr("Seconds between two looks.")),
)
@click.option("--once", is_flag=True, help=str(tr("Print one table and end.")))
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document and end.")))
def top(interval: float, once: bool, url: str | None, as_json: bool) -> None:
    from slipway.cli.load_view import COLUMNS, between, cells, look, summary
    from slipway.cli.output import note, print_json, print_table

    with connect(url) as daemon:
        before = look(daemon)
        if not (once or as_json) and sys.stdout.isatty():
            from slipway.cli.load_screen import watch

            watch(daemon, before, interval)
            return
        time.sleep(interval)
        load = between(daemon.url, before, look(daemon))
    if as_json:
        print_json(load.as_json())
        return
    note(summary(load))
    print_table(COLUMNS, [cells(row) for row in load.models])
