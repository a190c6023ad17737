"""`slipway data cache`: the tokenised datasets that are kept for later starts."""

from __future__ import annotations

import time

import click

from slipway.cli import output
from slipway.core.i18n import tr


@click.command(
    "cache",
    help=str(
        tr("Show the tokenised datasets kept for later starts of a training; or remove them.")
    ),
)
@click.option("--clear", is_flag=True, help=str(tr("Remove all of them.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def data_cache(clear: bool, as_json: bool) -> None:
    from slipway.core.paths import Home
    from slipway.datasets import list_cached, remove_cached

    folder = Home.current().token_cache
    entries = remove_cached(folder) if clear else list_cached(folder)
    total = sum(entry.bytes for entry in entries)
    if as_json:
        rows = [
            {"folder": str(entry.folder), "bytes": entry.bytes, "used_at": round(entry.used_at)}
            for entry in entries
        ]
        output.print_json({"removed" if clear else "cached": rows, "bytes": total})
        return
    if clear:
        print(tr("{count} removed, {size} freed", count=len(entries), size=output.size(total)))
        return
    output.print_table(
        [tr("token set"), tr("size"), tr("last used")],
        [
            [
                entry.folder.name[:12],
                output.size(entry.bytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_at)),
            ]
            for entry in entries
        ],
    )
    print(
        tr(
            "{count} in {folder}, {size}",
            count=len(entries),
            folder=folder,
            size=output.size(total),
        )
    )
