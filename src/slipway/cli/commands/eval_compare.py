"""`slipway eval compare A B`: two finished evaluations, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home
    from slipway.evaluation.compare import Chosen


@click.command(
    name="compare",
    help=str(
        tr(
            "Compare two results of `slipway eval` on the rows they have in common. A and B are "
            "folders, or names in SLIPWAY_HOME/artefacts; FOLDER:LABEL takes that model instead "
            "of the last one."
        )
    ),
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--seed", type=int, default=0, show_default=True, help=str(tr("Of the bootstrap.")))
@click.option(
    "--max-drop",
    "drop",
    multiple=True,
    metavar="METRIC=X",
    help=str(tr("Fail when B is worse than A by more; repeatable.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def compare(before: str, after: str, seed: int, drop: tuple[str, ...], as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.paths import Home
    from slipway.evaluation import Gates, compare_folders, gates

    bounds = Gates(drop=gates.parse_bounds(drop, "--max-drop"))
    home = Home.current()
    found = compare_folders(_chosen(before, home), _chosen(after, home), seed=seed)
    if as_json:
        print_json(found)
    else:
        _print(found)
    gates.require_no_drop(found["after"]["label"], found["differences"], bounds)


def _chosen(text: str, home: Home) -> Chosen:
    from slipway.cli.commands.convert import resolve
    from slipway.evaluation.compare import choose

    if not Path(text).is_dir() and ":" in text:
        name, _, label = text.rpartition(":")
        return choose(resolve(Path(name), home), label)
    return choose(resolve(Path(text), home), None)


def _print(found: dict[str, Any]) -> None:
    from slipway.cli.output import print_table
    from slipway.evaluation.report import difference_of

    before, after = found["before"]["label"], found["after"]["label"]
    rows = [
        (name, f"{d['value']:+.4g}", f"{d['low']:+.4g} .. {d['high']:+.4g}", d["rows"])
        for name, d in found["differences"].items()
    ]
    print_table([tr("metric"), tr("change"), tr("95 % interval"), tr("rows")], rows)
    for name, raw in found["differences"].items():
        print(difference_of(name, raw).sentence(after, before))
    for name, (old, new) in found["settings"].items():
        print(tr("other setting `{name}`: {old} and {new}", name=name, old=old, new=new))
