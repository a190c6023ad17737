"""`slipway gateway limit`: rates, places and budgets of tokens, users, groups and models."""

from __future__ import annotations

from typing import Any

import click

from slipway.cli.commands.gateway_common import json_option, money, opened
from slipway.cli.output import note, print_json, print_table
from slipway.core.i18n import tr

_SCOPES = click.Choice(["token", "user", "group", "model"])


@click.group(help=str(tr("Limits of tokens, users, groups and models.")))
def limit() -> None:
    pass


@limit.command("set", help=str(tr("Set what is allowed, in place of an earlier limit.")))
@click.argument("scope", type=_SCOPES)
@click.argument("name")
@click.option("--rpm", type=int, help=str(tr("Requests per minute.")))
@click.option("--tpm", type=int, help=str(tr("Tokens per minute, prompt and answer.")))
@click.option("--concurrency", type=int, help=str(tr("Requests at once; others wait.")))
@click.option("--day", help=str(tr("What may be spent in a day (UTC), for example 1.50.")))
@click.option("--month", help=str(tr("What may be spent in a month (UTC).")))
@click.option("--total", help=str(tr("What may be spent in all.")))
@json_option
def set_(scope: Any, name: str, as_json: bool, **given: Any) -> None:
    from slipway.gateway import Limit, parse_money, set_limit

    budgets = {
        f"{key}_micro": None if given[key] is None else parse_money(given[key], f"--{key}")
        for key in ("day", "month", "total")
    }
    rates = {key: given[key] for key in ("rpm", "tpm", "concurrency")}
    with opened() as store:
        made = set_limit(store, scope, name, Limit(**rates, **budgets))
    if as_json:
        print_json(made.as_json())
        return
    note(tr("set the limit of the {scope} `{name}`", scope=scope, name=made.name))


@limit.command("ls", help=str(tr("List the limits, and what of the budgets is spent.")))
@json_option
def list_(as_json: bool) -> None:
    from slipway.gateway import list_limits

    with opened() as store:
        found = list_limits(store)
    if as_json:
        print_json([row.as_json() for row in found])
        return
    columns = (tr("SCOPE"), tr("NAME"), tr("RPM"), tr("TPM"), tr("AT ONCE"))
    rows = []
    for row in found:
        allowed = row.limit
        budgets = (allowed.day_micro, allowed.month_micro, allowed.total_micro)
        spent = iter(row.used_micro.values())
        cells = ["-" if b is None else f"{money(next(spent))} / {money(b)}" for b in budgets]
        rates = (allowed.rpm or "-", allowed.tpm or "-", allowed.concurrency or "-")
        rows.append((row.scope, row.name, *rates, *cells))
    print_table((*columns, tr("TODAY"), tr("THIS MONTH"), tr("IN ALL")), rows)


@limit.command("rm", help=str(tr("Take a limit away.")))
@click.argument("scope", type=_SCOPES)
@click.argument("name")
def remove(scope: Any, name: str) -> None:
    from slipway.gateway import remove_limit

    with opened() as store:
        remove_limit(store, scope, name)
    note(tr("took the limit of the {scope} `{name}` away", scope=scope, name=name))
