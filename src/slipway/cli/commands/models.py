"""`slipway list`, `show`, `rm`: what is in the model store."""

from __future__ import annotations

from typing import Any

import click

from slipway.core.i18n import tr

_LONGEST = 200  # characters of a value that people are shown


@click.command("list", help=str(tr("List the models in the store, newest first.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def list_models(as_json: bool) -> None:
    from slipway.cli.output import note, print_json, print_table, size
    from slipway.core.errors import SlipwayError
    from slipway.core.paths import Home
    from slipway.store import list_models as stored

    problems: list[SlipwayError] = []
    models = stored(Home.current(), problems=problems)
    for problem in problems:
        note(problem.message)
    if as_json:
        print_json(
            [
                {
                    "name": m.name.display,
                    "digest": m.digest,
                    "size": m.size,
                    "modified_at": m.modified_at.isoformat(timespec="seconds"),
                }
                for m in models
            ]
        )
        return
    rows = [
        (
            m.name.display,
            m.digest[:12],
            size(m.size),
            f"{m.modified_at.astimezone():%Y-%m-%d %H:%M}",
        )
        for m in models
    ]
    print_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


@click.command(help=str(tr("Show a model: facts, options, template, and what it was made from.")))
@click.argument("name")
@click.option("--modelfile", is_flag=True, help=str(tr("Print the model as a Modelfile.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def show(name: str, modelfile: bool, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.paths import Home
    from slipway.store import describe_model, render_modelfile, resolve_model

    model = resolve_model(name, home=Home.current())
    if modelfile:
        print(render_modelfile(model), end="")
        return
    facts = describe_model(model)
    if as_json:
        print_json(facts)
        return
    card = facts.pop("quality", None)
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name_, item in value.items():
                print(f"  {name_:<20} {_short(item)}")
        elif isinstance(value, str) and "\n" in value:
            print(f"{key}:\n  " + value.replace("\n", "\n  "))
        else:
            print(f"{key:<20}  {value}")
    if card:
        _print_quality(card)


def _short(value: object) -> str:
    """A value on one line; a lineage can hold a record of every tensor."""
    text = str(value)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}… {tr('(all of it: `--json`)')}"


def _print_quality(card: dict[str, Any]) -> None:
    """What quantising has cost, in two columns: this model, and the unquantised one."""
    from slipway.evaluation.quality.words import COLUMNS, cells

    level, plain = cells(card["figures"]), cells(card["unquantised"])
    print(
        tr(
            "quality: {level} against the unquantised model, measured {when}",
            level=card["level"],
            when=card["measured_at"],
        )
    )
    for name, own, its in zip(COLUMNS, level, plain, strict=True):
        print(f"  {name:<20} {own:<24} {its}")


@click.command(help=str(tr("Remove models from the store; blobs that others share stay.")))
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def remove(names: tuple[str, ...], as_json: bool) -> None:
    from slipway.cli.output import print_json, size
    from slipway.core.paths import Home
    from slipway.store import remove_model

    removed = []
    for name in names:
        freed = remove_model(name, home=Home.current())
        removed.append({"name": name, "freed_bytes": freed})
        if not as_json:
            print(tr("removed {name}, {size} freed", name=name, size=size(freed)))
    if as_json:
        print_json(removed)
