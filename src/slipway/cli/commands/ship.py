"""`slipway ship RUN --as NAME`: from a run to a name in the model store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli import output
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from slipway.ship import ShipOptions, Shipped, ShipPlan


@click.command(
    help=str(
        tr(
            "Take SOURCE to a name in the model store: merge, convert, quantise, prove, create. "
            "SOURCE is a run (name, id, folder, `last`), a merged model or a GGUF artefact. What "
            "is there already is taken over; after an interruption the same command goes on."
        )
    )
)
@click.argument("source")
@click.option(
    "--as",
    "name",
    required=True,
    metavar="NAME[:TAG]",
    help=str(tr("Name to create, such as `shop:v1`.")),
)
@click.option(
    "-t",
    "--type",
    "types",
    multiple=True,
    metavar="TYPE[,TYPE]",
    help=str(
        tr(
            "Quant types, default Q4_K_M. NAME is the first of them; with several each also gets "
            "a name of its own (`shop:v1-q8_0`). `auto` makes several, measures them, and takes "
            "the smallest that is good enough."
        )
    ),
)
@click.option(
    "--system",
    help=str(tr("System prompt; default: the recipe's, or the one that all rows have.")),
)
@click.option(
    "-p",
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help=str(tr("Option for the Modelfile, such as `temperature=0.2` (repeatable).")),
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help=str(tr("Plain text to measure on; default: the run's held-out rows.")),
)
@click.option(
    "--unmerged",
    is_flag=True,
    help=str(tr("Quantise the run's base and add its adapter when the model is loaded (ADAPTER).")),
)
@click.option("--no-measure", is_flag=True, help=str(tr("Do not measure the levels.")))
@click.option(
    "--max-kld",
    type=click.FloatRange(0),
    help=str(tr("Gate: largest mean KL divergence from the unquantised model, nats.")),
)
@click.option(
    "--min-top1",
    type=click.FloatRange(0, 1),
    help=str(tr("Gate: least share (0 to 1) of tokens with the same first choice.")),
)
@click.option(
    "--max-drop",
    multiple=True,
    metavar="METRIC=POINTS",
    help=str(tr("Gate: most that a metric (chrf, rouge_l) of the answers may be worse.")),
)
@click.option(
    "--thorough",
    is_flag=True,
    help=str(tr("Measure answers to held-out rows, speed and memory too.")),
)
@click.option("--force", is_flag=True, help=str(tr("Replace models of these names.")))
@click.option(
    "--clean", is_flag=True, help=str(tr("Afterwards remove what was made on the way, and say so."))
)
@click.option(
    "--dry-run",
    is_flag=True,
    help=str(tr("Show stages, sizes and names, and make nothing.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def ship(dry_run: bool, as_json: bool, **chosen: Any) -> None:
    from slipway.cli.stage_screen import Screen
    from slipway.ship import plan_ship
    from slipway.ship import ship as ship_it

    options = _options(**chosen)
    if dry_run:
        context, plan = plan_ship(options)
        if as_json:
            output.print_json(plan.as_json())
            return
        if context.system.warning:
            output.note(context.system.warning)
        _show_plan(plan, context.system.text)
        return
    screen = Screen()
    try:
        shipped = ship_it(options, say=screen.say, observer=screen.stage, listeners=(screen.event,))
    except KeyboardInterrupt:
        screen.say(tr("stopped; the same command goes on from here"))
        raise
    if as_json:
        output.print_json(shipped.as_json())
        return
    _show(shipped, options)


def _options(
    *,
    types: tuple[str, ...],
    parameters: tuple[str, ...],
    no_measure: bool,
    max_kld: float | None,
    min_top1: float | None,
    max_drop: tuple[str, ...],
    **same: Any,
) -> ShipOptions:
    from slipway.evaluation.gates import parse_bounds
    from slipway.evaluation.quality import Gate
    from slipway.ship import ShipOptions
    from slipway.ship.options import DEFAULT_TYPES, parse_parameter

    return ShipOptions(
        types=tuple(kind for text in types for kind in text.split(",")) or DEFAULT_TYPES,
        parameters=tuple(parse_parameter(text) for text in parameters),
        measure=not no_measure,
        gate=Gate(max_kld, min_top1, parse_bounds(max_drop, "--max-drop")),
        **same,
    )


def _show_plan(plan: ShipPlan, system: str) -> None:
    from slipway.ship.plan import TITLES

    if plan.tools is None:
        output.note(tr("llama.cpp's tools are not there yet: they will be installed first"))
    print(tr("stages: {names}", names=" → ".join(str(TITLES[name]) for name in plan.stages)))
    rows = []
    for item in plan.products:
        label = str(TITLES[item.stage]) + (f" {item.label}" if item.label != item.stage else "")
        what = tr("there already") if item.state == "reuse" else tr("to be made")
        size = output.size(item.size_bytes)
        if item.exact and item.state == "make":
            size += f" ({item.size_bytes})"
        rows.append((label, what, size if item.exact else f"≈ {size}", item.folder))
    output.print_table([tr("stage"), tr("state"), tr("size"), tr("folder")], rows)
    states = {
        "new": tr("will be created"),
        "same": tr("there already"),
        "taken": tr("holds another model: `--force` replaces it"),
    }
    output.print_table(
        [tr("name"), tr("type"), tr("state")],
        [(name, kind, states[state]) for name, (kind, state) in plan.names.items()],
    )
    print(tr("system prompt: {text}", text=shorten(system) if system else tr("none")))
    print(
        tr(
            "disk: {needed} will be taken, {free} are free",
            needed=output.size(plan.needed_bytes),
            free=output.size(plan.free_bytes),
        )
    )


def shorten(text: str, width: int = 72) -> str:
    """A text's beginning, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _show(shipped: Shipped, options: ShipOptions) -> None:
    if shipped.unchanged:
        print(tr("nothing to do: {name} is up to date", name=shipped.name))
    else:
        print(tr("created: {names}", names=", ".join(shipped.names)))
    for folder in [] if shipped.unchanged else shipped.cleaned:
        output.note(tr("removed, as asked: {folder}", folder=folder))
    for kind, level in shipped.levels.items():
        if level["fallback_tensors"]:
            output.note(
                tr(
                    "{type}: {count} of {all} tensors have rows that do not fit its blocks and "
                    "took a larger type",
                    type=kind,
                    count=level["fallback_tensors"],
                    all=level["tensors"],
                )
            )
    output.print_table(*_table(shipped))
    if shipped.unquantised:
        print(_advice(shipped, options))
    if sys.stdout.isatty():
        print(tr("system prompt: {text}", text=shorten(shipped.system) or tr("none")))
    print(tr("\ngo on with:"))
    body = f'{{"model": "{shipped.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    print("  slipway serve")
    print(f"  curl http://127.0.0.1:11434/api/chat -d '{body}'")
    print(f"  slipway show {shipped.name}")


def _advice(shipped: Shipped, options: ShipOptions) -> Text:
    """Which level to take and why, in the reader's language."""
    from slipway.evaluation.quality import QualityCard
    from slipway.evaluation.quality.advice import advise

    card = QualityCard(shipped.unquantised, shipped.levels, {})
    return advise(card, options.gate).sentence


_FIGURES: dict[str, tuple[Text | str, str]] = {
    "ppl": ("PPL", ".2f"),
    "kld_mean": ("KLD", ".5f"),
    "top1": (tr("top-1"), ".1%"),
}


def _table(shipped: Shipped) -> tuple[list[Text | str], list[list[object]]]:
    """A row for each level, with what was measured and the names that serve it."""
    names: dict[str, list[str]] = {}
    for name, made in shipped.names.items():
        names.setdefault(made["type"], []).append(name)
    found: list[tuple[Text | str, dict[str, Any]]] = list(shipped.levels.items())
    if shipped.unquantised:
        found.insert(0, (tr("unquantised"), shipped.unquantised))
    figures = _FIGURES if shipped.unquantised else {}
    scores = sorted({name for _, row in found for name in row.get("metrics", {})})
    columns: list[Text | str] = [tr("type"), tr("size"), tr("bits/weight")]
    columns += [title for title, _ in figures.values()]
    columns += scores
    rows: list[list[object]] = [
        [
            kind,
            output.size(row["size_bytes"]),
            _cell(row, "bpw", ".2f"),
            *(_cell(row, key, form) for key, (_, form) in figures.items()),
            *(_cell(row["metrics"], name, ".1f") for name in scores),
            ", ".join(names.get(str(kind), [])),
        ]
        for kind, row in found
    ]
    return [*columns, tr("names")], rows


def _cell(level: dict[str, Any], key: str, form: str) -> str:
    value = level.get(key)
    return "-" if value is None else format(value, form)
