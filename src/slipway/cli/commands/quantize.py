"""`slipway quantize`: GGUF to quantised GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slipway.core.i18n import tr


@click.command(help=str(tr("Quantise a GGUF to one or more types.")))
@click.argument("gguf", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--types",
    default="Q4_K_M,Q5_K_M,Q8_0",
    show_default=True,
    help=str(tr("Quant types, separated by commas.")),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of the results, one folder for each type.")),
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help=str(tr("Text on which the importance of each weight is measured.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def quantize(
    gguf: Path, types: str, output: Path | None, calibration: Path | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from slipway.cli.commands.convert import resolve
    from slipway.cli.output import LiveLine, note, print_json, print_table, size
    from slipway.core.events import EventLog
    from slipway.core.paths import Home
    from slipway.export import quantize as quantize_to

    line, fractions = LiveLine(), dict[str, float]()

    def show(event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            fractions[event["quant"]] = event["fraction"]
            line.show("  ".join(f"{name} {done:4.0%}" for name, done in fractions.items()))

    home = Home.current()
    folder = resolve(gguf, home)
    target = output or folder.with_name(f"{folder.resolve().name}-quants")
    made = quantize_to(
        folder,
        types.split(","),
        target,
        home=home,
        events=EventLog(None, show),
        calibration=calibration,
    )
    line.done()
    if as_json:
        print_json({name: {"folder": str(target / name), **asdict(m)} for name, m in made.items()})
        return
    for name, manifest in made.items():
        if manifest.notes["fallback_tensors"]:
            note(
                tr(
                    "{type}: {count} of {all} tensors have rows that do not fit its blocks and "
                    "took a larger type",
                    type=name,
                    count=manifest.notes["fallback_tensors"],
                    all=manifest.notes["tensors"],
                )
            )
    rows = [
        (n, size(m.metrics["size_bytes"]), m.metrics["bpw"], m.metrics["seconds"], target / n)
        for n, m in made.items()
    ]
    print_table([tr("type"), tr("size"), tr("bits/weight"), tr("seconds"), tr("folder")], rows)
