"""`slipway gateway`: run it, and manage its users, tokens and channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slipway.cli.commands.gateway_channels import channel
from slipway.cli.commands.gateway_common import (
    json_option,
    moment,
    money,
    opened,
    split_names,
    state,
)
from slipway.cli.commands.gateway_feedback import capture_options, consent_from, feedback
from slipway.cli.commands.gateway_limits import limit
from slipway.cli.output import note, print_json, print_table
from slipway.core.i18n import tr


@click.group(help=str(tr("Run the gateway; manage users, tokens and channels.")))
def gateway() -> None:
    pass


gateway.add_command(channel)
gateway.add_command(limit)
gateway.add_command(feedback)


@gateway.command(help=str(tr("Serve the gateway and its chat page until Ctrl-C.")))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help=str(tr("Address to listen on."))
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    help=str(tr("TCP port.")),
)
@click.option(
    "--block-words",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=str(tr("Refuse requests and answers with a word of this file (one a line).")),
)
@click.option(
    "--audit-words",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=str(tr("Only note requests and answers with a word of this file.")),
)
def serve(host: str, port: int, block_words: Path | None, audit_words: Path | None) -> None:
    from slipway.gateway import GatewayConfig, filter_of
    from slipway.gateway import serve as run

    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    filters = filter_of(block_words, audit_words)

    def ready() -> None:
        note(tr("gateway: {url}/v1 (API), {url}/ (chat page)", url=address))

    with opened() as store:
        run(store, GatewayConfig(host=host, port=port, filters=filters), ready)


@gateway.group(help=str(tr("Users.")))
def user() -> None:
    pass


@user.command("add", help=str(tr("Make a user.")))
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["admin", "user"]),
    default="user",
    show_default=True,
    help=str(tr("What the user may do.")),
)
@click.option(
    "--group",
    default="default",
    show_default=True,
    help=str(tr("The group, which limits may name.")),
)
@json_option
def add_user(name: str, role: Any, group: str, as_json: bool) -> None:
    from slipway.gateway import add_user

    with opened() as store:
        made = add_user(store, name, role, group)
    if as_json:
        print_json(made.as_json())
        return
    note(tr("made the user `{name}`", name=name))
    note(tr("next: `slipway gateway token add laptop --user {name}`", name=name))


@user.command("ls", help=str(tr("List the users.")))
@json_option
def list_users(as_json: bool) -> None:
    from slipway.gateway import list_users

    with opened() as store:
        found = list_users(store)
    if as_json:
        print_json([row.as_json() for row in found])
        return
    print_table(
        (tr("NAME"), tr("ROLE"), tr("GROUP"), tr("STATE"), tr("CREATED")),
        [
            (row.name, row.role, row.group, state(row.enabled), moment(row.created_at))
            for row in found
        ],
    )


@gateway.group(help=str(tr("Tokens, which are the keys that clients send.")))
def token() -> None:
    pass


@token.command("add", help=str(tr("Make a token and print its key, once.")))
@click.argument("name")
@click.option("--user", required=True, help=str(tr("Whose token it is.")))
@click.option("--models", help=str(tr("Only these models, separated by commas.")))
@click.option("--budget", help=str(tr("What it may spend in all, for example 1.50.")))
@click.option("--expires", help=str(tr("How long it lives: 30d, 12h or 45m.")))
@click.option("--rpm", type=int, help=str(tr("Requests per minute.")))
@click.option(
    "--networks", help=str(tr("Only from these addresses or CIDRs, separated by commas."))
)
@capture_options
@json_option
def add_token(
    name: str,
    user: str,
    models: str | None,
    budget: str | None,
    expires: str | None,
    rpm: int | None,
    networks: str | None,
    as_json: bool,
    **capture: Any,
) -> None:
    from slipway.gateway import add_token, parse_money
    from slipway.gateway.clock import parse_lifetime

    with opened() as store:
        made, key = add_token(
            store,
            name,
            user=user,
            models=split_names(models, "--models"),
            budget_micro=None if budget is None else parse_money(budget, "--budget"),
            lifetime_ms=None if expires is None else parse_lifetime(expires),
            rpm=rpm,
            networks=split_names(networks, "--networks"),
            capture=consent_from(**capture),
        )
    if as_json:
        print_json({**made.as_json(), "key": key})
        return
    note(
        tr("made the token `{name}` of `{user}`; its key is shown only now:", name=name, user=user)
    )
    print(key)


@token.command("ls", help=str(tr("List the tokens.")))
@json_option
def list_tokens(as_json: bool) -> None:
    from slipway.gateway import list_tokens

    with opened() as store:
        found = list_tokens(store)
    if as_json:
        print_json([row.as_json() for row in found])
        return
    columns = (tr("NAME"), tr("USER"), tr("KEY"), tr("STATE"), tr("MODELS"))
    print_table(
        (*columns, tr("USED"), tr("BUDGET"), tr("RPM"), tr("EXPIRES"), tr("LAST USED")),
        [
            (
                row.name,
                row.user,
                f"{row.prefix}…",
                state(row.enabled),
                "*" if row.models is None else ", ".join(row.models),
                money(row.used_micro),
                "-" if row.budget_micro is None else money(row.budget_micro),
                row.rpm or "-",
                moment(row.expires_at),
                moment(row.last_used_at),
            )
            for row in found
        ],
    )


@token.command("revoke", help=str(tr("Disable a token for good, by its name or key prefix.")))
@click.argument("name")
def revoke(name: str) -> None:
    from slipway.gateway import revoke_token

    with opened() as store:
        gone = revoke_token(store, name)
    note(tr("revoked the token `{name}` of `{user}`", name=gone.name, user=gone.user))


@gateway.command(help=str(tr("Say where a request for MODEL would go, and why.")))
@click.argument("model")
@click.option("--group", default="default", show_default=True, help=str(tr("Of a user's group.")))
@json_option
def explain(model: str, group: str, as_json: bool) -> None:
    from slipway.gateway import explain_route

    with opened() as store:
        found = explain_route(store, model, group)
    if as_json:
        print_json(found.as_json())
        return
    for text in found.texts():
        print(text)
    note(tr("breakers and loads are a running gateway's: ask it with POST /api/explain"))


@gateway.command(help=str(tr("Show what was used, by user, token, model and channel.")))
@click.option("--since", help=str(tr("Only the last 30d, 12h or 45m.")))
@json_option
def usage(since: str | None, as_json: bool) -> None:
    from slipway.gateway import usage_summary
    from slipway.gateway.clock import now_ms, parse_lifetime

    with opened() as store:
        summary = usage_summary(store, None if since is None else now_ms() - parse_lifetime(since))
    if as_json:
        print_json(summary.as_json())
        return
    lines = summary.lines if len(summary.lines) == 1 else (*summary.lines, summary.total)
    columns = (tr("USER"), tr("TOKEN"), tr("MODEL"), tr("CHANNEL"), tr("REQUESTS"), tr("ERRORS"))
    print_table(
        (*columns, tr("PROMPT"), tr("GENERATED"), tr("COST")),
        [
            (
                line.user or tr("total"),
                line.token,
                line.model,
                line.channel,
                line.requests,
                line.errors,
                line.prompt_tokens,
                line.completion_tokens,
                tr("unpriced")
                if line.requests and line.unpriced == line.requests
                else money(line.cost_micro),
            )
            for line in lines
        ],
    )
