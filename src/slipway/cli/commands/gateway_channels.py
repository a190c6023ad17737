"""`slipway gateway channel`: the places that requests go to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slipway.cli.commands.gateway_common import (
    json_option,
    money,
    opened,
    price_of,
    prices_json,
    read_key,
    split_names,
    state,
)
from slipway.cli.output import note, print_json, print_table
from slipway.core.i18n import tr


@click.group(help=str(tr("Channels, which are the places that requests go to.")))
def channel() -> None:
    pass


@channel.command("add", help=str(tr("Make a channel.")))
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["slipway", "openai", "ollama", "azure", "anthropic", "gemini"]),
    default="slipway",
    show_default=True,
    help=str(tr("What answers there; `openai` is any compatible service.")),
)
@click.option("--url", required=True, help=str(tr("Its address, without /v1.")))
@click.option(
    "--models",
    help=str(tr("Models, separated by commas, or NAME=THEIRS; default: what it lists.")),
)
@click.option("--price-in", help=str(tr("Price per million prompt tokens.")))
@click.option("--price-out", help=str(tr("Price per million generated tokens.")))
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True),
    help=str(tr("File with the service's own key; `-` reads it from standard input.")),
)
@click.option("--priority", type=int, default=0, help=str(tr("Higher ones are tried first.")))
@click.option("--weight", type=int, default=1, help=str(tr("Share among equal priorities.")))
@click.option(
    "--allow-private",
    is_flag=True,
    help=str(tr("Allow an address inside this machine or network.")),
)
@click.option("--replace", is_flag=True, help=str(tr("Take the place of one with this name.")))
@json_option
def add_channel(
    name: str,
    kind: Any,
    url: str,
    models: str | None,
    price_in: str | None,
    price_out: str | None,
    api_key_file: Path | None,
    priority: int,
    weight: int,
    allow_private: bool,
    replace: bool,
    as_json: bool,
) -> None:
    from slipway.gateway import ChannelSpec, add_channel, list_prices

    names = split_names(models, "--models")
    spec = ChannelSpec(
        name=name,
        kind=kind,
        url=url,
        models=None if names is None else tuple(names),
        api_key=read_key(api_key_file),
        price=price_of(price_in, price_out),
        priority=priority,
        weight=weight,
        allow_private=allow_private,
    )
    with opened() as store:
        made = add_channel(store, spec, replace=replace)
        prices = list_prices(store)
    if as_json:
        print_json(made.as_json() | prices_json(made, prices))
        return
    note(tr("made the channel `{name}` for {models}", name=name, models=", ".join(made.models)))
    unpriced = [model for model in made.models if model not in prices]
    if unpriced:
        note(tr("without a price, so requests cost 0: {models}", models=", ".join(unpriced)))


@channel.command("ls", help=str(tr("List the channels and the prices of their models.")))
@json_option
def list_channels(as_json: bool) -> None:
    from slipway.gateway import list_channels, list_prices

    with opened() as store:
        found, prices = list_channels(store), list_prices(store)
    if as_json:
        print_json([row.as_json() | prices_json(row, prices) for row in found])
        return
    columns = (tr("NAME"), tr("KIND"), tr("ADDRESS"), tr("STATE"), tr("PRIORITY"), tr("WEIGHT"))
    print_table(
        (*columns, tr("MODEL"), tr("PRICE IN"), tr("PRICE OUT")),
        [
            (
                row.name,
                row.kind,
                row.base_url,
                state(row.enabled),
                row.priority,
                row.weight,
                model if model == own else f"{model} → {own}",
                money(prices[model].input) if model in prices else tr("unpriced"),
                money(prices[model].output) if model in prices else tr("unpriced"),
            )
            for row in found
            for model, own in row.models.items()
        ],
    )


@channel.command("refresh", help=str(tr("Ask a channel again which models it has.")))
@click.argument("name")
def refresh(name: str) -> None:
    from slipway.gateway import refresh_channel

    with opened() as store:
        found = refresh_channel(store, name)
    note(tr("the channel `{name}` has {models}", name=name, models=", ".join(found.models) or "-"))
