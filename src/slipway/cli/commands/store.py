"""`slipway store`: check the model store, clear it up, take models over from Ollama's."""

from __future__ import annotations

from pathlib import Path

import click

from slipway.core.i18n import tr


@click.group(help=str(tr("The model store: check it, clear it up, take Ollama's models over.")))
def store() -> None:
    pass


@store.command(
    help=str(tr("Compare every blob with its digest, and every name with its blobs; 1 when wrong."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def check(as_json: bool) -> None:
    from dataclasses import asdict

    from slipway.cli.output import LiveLine, print_json
    from slipway.core.paths import Home
    from slipway.store.upkeep import check_store

    line = LiveLine()
    report = check_store(
        Home.current(),
        lambda done, total: line.show(tr("{done} of {total} blobs", done=done, total=total)),
    )
    line.done()
    if as_json:
        print_json({"sound": report.sound, **asdict(report)})
    else:
        for digest in report.damaged:
            print(tr("damaged: {what}", what=digest))
        for missing in report.dangling:
            print(tr("missing: {what}", what=missing))
        for problem in report.unreadable:
            print(problem)
        print(tr("{models} models, {blobs} blobs", models=report.models, blobs=report.blobs))
        if report.unused or report.partial:
            print(
                tr(
                    "{unused} blobs without a name, {partial} files of unfinished downloads: "
                    "`slipway store prune`",
                    unused=len(report.unused),
                    partial=len(report.partial),
                )
            )
        if report.sound:
            print(tr("the store is sound"))
    if not report.sound:
        raise SystemExit(1)


@store.command(help=str(tr("Delete blobs that no name uses, and unfinished downloads.")))
@click.option("--now", is_flag=True, help=str(tr("Also what is younger than an hour.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def prune(now: bool, as_json: bool) -> None:
    from slipway.cli.output import print_json, size
    from slipway.core.paths import Home
    from slipway.store.upkeep import GRACE_S, prune_store

    gone, freed = prune_store(Home.current(), grace_s=0 if now else GRACE_S)
    if as_json:
        print_json({"deleted": gone, "freed_bytes": freed})
    else:
        print(tr("{count} files deleted, {size} freed", count=len(gone), size=size(freed)))


@store.command(
    "import",
    help=str(
        tr(
            "Take models over from Ollama's store (all, or NAMES), by hard links where the disk "
            "allows; every digest is checked."
        )
    ),
)
@click.argument("names", nargs=-1)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="OLLAMA_MODELS",
    default="~/.ollama/models",
    show_default=True,
    help=str(tr("The other store; else $OLLAMA_MODELS.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def import_(names: tuple[str, ...], source: Path, as_json: bool) -> None:
    from slipway.cli.output import print_json, size
    from slipway.core.paths import Home
    from slipway.store.import_store import import_models

    rows = []
    for taken in import_models(source, names, home=Home.current()):
        model, copied = taken.model, taken.copied_bytes
        rows.append({"name": model.name.display, "size": model.size, "copied_bytes": copied})
        if not as_json:
            print(
                tr(
                    "{name}: {size}, {copied} copied",
                    name=model.name,
                    size=size(model.size),
                    copied=size(copied),
                )
            )
    if as_json:
        print_json(rows)
