"""`slipway imatrix`: measure which weights matter, for the quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.manifest import Manifest
    from slipway.core.paths import Home
    from slipway.export.imatrix import CalibrationPlan

_SHOWN = 5


@click.command(
    help=str(
        tr(
            "Measure on data like that the model will see which of its weights matter, for "
            "`slipway quantize --imatrix`. Rows of a dataset are rendered as the model serves "
            "them. Do not take the data it is tested on."
        )
    )
)
@click.argument("gguf", type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    help=str(tr("Dataset whose train rows are read. Repeatable.")),
)
@click.option(
    "--text",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help=str(tr("Plain text that is read. Repeatable.")),
)
@click.option("--chunks", type=click.IntRange(min=2), default=100, show_default=True,
              help=str(tr("Most chunks of text.")))  # fmt: skip
@click.option("--context", type=click.IntRange(min=32), default=512, show_default=True,
              help=str(tr("Tokens of a chunk.")))  # fmt: skip
@click.option("--process-output", is_flag=True, help=str(tr("Measure the output tensor too.")))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help=str(tr("Folder of the result."))
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def imatrix(
    gguf: Path,
    data: tuple[Path, ...],
    text: tuple[Path, ...],
    chunks: int,
    context: int,
    process_output: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from slipway.cli.commands.convert import resolve
    from slipway.cli.output import print_json
    from slipway.core.paths import Home
    from slipway.export.imatrix import CalibrationPlan

    home = Home.current()
    folder = resolve(gguf, home)
    target = output or folder.with_name(f"{folder.resolve().name}-imatrix")
    plan = CalibrationPlan(text, data, chunks, context, process_output)
    manifest = make_imatrix(folder, target, plan, home)
    if as_json:
        print_json({"folder": str(target), **asdict(manifest)})
        return
    _tell(manifest)
    print(target)


def make_imatrix(folder: Path, target: Path, plan: CalibrationPlan, home: Home) -> Manifest:
    """Measure with a line of progress, and warn of what is not covered."""
    from slipway.cli.output import LiveLine, duration
    from slipway.core.events import EventLog
    from slipway.core.manifest import require_replaceable
    from slipway.export.imatrix import measure_imatrix

    require_replaceable(target, "imatrix")
    line = LiveLine()

    def show(event: dict[str, Any]) -> None:
        if event["type"] != "progress":
            return
        if event["part"] == "text":
            line.show(tr("rendering the rows"))
        elif event["eta_s"] is None:
            line.show(tr("reading with the model"))
        else:
            line.show(tr("reading with the model, about {time}", time=duration(event["eta_s"])))

    manifest = measure_imatrix(folder, target, plan, home=home, events=EventLog(None, show))
    line.done()
    _warn(manifest)
    return manifest


def _tell(manifest: Manifest) -> None:
    from slipway.cli.output import note
    from slipway.export.imatrix import coverage_in

    found = coverage_in(manifest)
    note(
        tr(
            "{covered} of {tensors} weights have data of {tokens} tokens at least",
            covered=found.covered,
            tensors=found.tensors,
            tokens=found.tokens,
        )
    )
    if found.dead_columns:
        worst = max(found.dead_columns, key=lambda name: found.dead_columns[name])
        note(
            tr(
                "{count} weights have input columns that were always 0, most in {name}: {share}",
                count=len(found.dead_columns),
                name=worst,
                share=f"{found.dead_columns[worst]:.1%}",
            )
        )


def _warn(manifest: Manifest) -> None:
    from slipway.cli.output import note
    from slipway.export.imatrix import coverage_in

    found = coverage_in(manifest)
    if found.missing:
        names = ", ".join(found.missing[:_SHOWN])
        more = " …" if len(found.missing) > _SHOWN else ""
        note(
            tr(
                "{count} weights have no data and are rounded blindly: {names}",
                count=len(found.missing),
                names=names + more,
            )
        )
    if found.experts_missing or found.experts_few:
        note(
            tr(
                "experts that saw no token: {none}; fewer than 1000: {few}; give more text, or "
                "text of more kinds",
                none=sum(found.experts_missing.values()),
                few=sum(found.experts_few.values()),
            )
        )
