"""`slipway gateway`: run it, and manage its users, tokens and channels."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli.output import note, print_json, print_table
from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.gateway import Channel, Price, Store

MICRO = 1_000_000
json_option = click.option("--json", "as_json", is_flag=True, help=str(tr("Print JSON.")))


def _store() -> closing[Store]:
    from slipway.gateway import open_store

    return closing(open_store())


@click.group(help=str(tr("Run the gateway; manage users, tokens and channels.")))
def gateway() -> None:
    pass


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
def serve(host: str, port: int) -> None:
    from slipway.gateway import GatewayConfig
    from slipway.gateway import serve as run

    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def ready() -> None:
        note(tr("gateway: {url}/v1 (API), {url}/ (chat page)", url=address))

    with _store() as store:
        run(store, GatewayConfig(host=host, port=port), ready)


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
@json_option
def add_user(name: str, role: Any, as_json: bool) -> None:
    from slipway.gateway import add_user

    with _store() as store:
        made = add_user(store, name, role)
    if as_json:
        print_json(made.as_json())
        return
    note(tr("made the user `{name}`", name=name))
    note(tr("next: `slipway gateway token add laptop --user {name}`", name=name))


@user.command("ls", help=str(tr("List the users.")))
@json_option
def list_users(as_json: bool) -> None:
    from slipway.gateway import list_users

    with _store() as store:
        found = list_users(store)
    if as_json:
        print_json([row.as_json() for row in found])
        return
    print_table(
        (tr("NAME"), tr("ROLE"), tr("STATE"), tr("CREATED")),
        [(row.name, row.role, _state(row.enabled), _time(row.created_at)) for row in found],
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
@json_option
def add_token(
    name: str,
    user: str,
    models: str | None,
    budget: str | None,
    expires: str | None,
    rpm: int | None,
    as_json: bool,
) -> None:
    from slipway.gateway import add_token, parse_money
    from slipway.gateway.clock import parse_lifetime

    with _store() as store:
        made, key = add_token(
            store,
            name,
            user=user,
            models=_split(models, "--models"),
            budget_micro=None if budget is None else parse_money(budget, "--budget"),
            lifetime_ms=None if expires is None else parse_lifetime(expires),
            rpm=rpm,
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

    with _store() as store:
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
                _state(row.enabled),
                "*" if row.models is None else ", ".join(row.models),
                _money(row.used_micro),
                "-" if row.budget_micro is None else _money(row.budget_micro),
                row.rpm or "-",
                _time(row.expires_at),
                _time(row.last_used_at),
            )
            for row in found
        ],
    )


@token.command("revoke", help=str(tr("Disable a token for good, by its name or key prefix.")))
@click.argument("name")
def revoke(name: str) -> None:
    from slipway.gateway import revoke_token

    with _store() as store:
        gone = revoke_token(store, name)
    note(tr("revoked the token `{name}` of `{user}`", name=gone.name, user=gone.user))


@gateway.group(help=str(tr("Channels, which are the places that requests go to.")))
def channel() -> None:
    pass


@channel.command("add", help=str(tr("Make a channel.")))
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["slipway", "openai", "ollama"]),
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

    names = _split(models, "--models")
    spec = ChannelSpec(
        name=name,
        kind=kind,
        url=url,
        models=None if names is None else tuple(names),
        api_key=_read_key(api_key_file),
        price=_price(price_in, price_out),
        priority=priority,
        weight=weight,
        allow_private=allow_private,
    )
    with _store() as store:
        made = add_channel(store, spec, replace=replace)
        prices = list_prices(store)
    if as_json:
        print_json(made.as_json() | _prices_json(made, prices))
        return
    note(tr("made the channel `{name}` for {models}", name=name, models=", ".join(made.models)))
    unpriced = [model for model in made.models if model not in prices]
    if unpriced:
        note(tr("without a price, so requests cost 0: {models}", models=", ".join(unpriced)))


@channel.command("ls", help=str(tr("List the channels and the prices of their models.")))
@json_option
def list_channels(as_json: bool) -> None:
    from slipway.gateway import list_channels, list_prices

    with _store() as store:
        found, prices = list_channels(store), list_prices(store)
    if as_json:
        print_json([row.as_json() | _prices_json(row, prices) for row in found])
        return
    columns = (tr("NAME"), tr("KIND"), tr("ADDRESS"), tr("STATE"), tr("PRIORITY"), tr("WEIGHT"))
    print_table(
        (*columns, tr("MODEL"), tr("PRICE IN"), tr("PRICE OUT")),
        [
            (
                row.name,
                row.kind,
                row.base_url,
                _state(row.enabled),
                row.priority,
                row.weight,
                model if model == own else f"{model} → {own}",
                _money(prices[model].input) if model in prices else tr("unpriced"),
                _money(prices[model].output) if model in prices else tr("unpriced"),
            )
            for row in found
            for model, own in row.models.items()
        ],
    )


@channel.command("refresh", help=str(tr("Ask a channel again which models it has.")))
@click.argument("name")
def refresh(name: str) -> None:
    from slipway.gateway import refresh_channel

    with _store() as store:
        found = refresh_channel(store, name)
    note(tr("the channel `{name}` has {models}", name=name, models=", ".join(found.models) or "-"))


@gateway.command(help=str(tr("Show what was used, by user, token, model and channel.")))
@click.option("--since", help=str(tr("Only the last 30d, 12h or 45m.")))
@json_option
def usage(since: str | None, as_json: bool) -> None:
    from slipway.gateway import usage_summary
    from slipway.gateway.clock import now_ms, parse_lifetime

    with _store() as store:
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
                else _money(line.cost_micro),
            )
            for line in lines
        ],
    )


def _split(names: str | None, option: str) -> list[str] | None:
    if names is None:
        return None
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:  # an unset variable in a script must not widen or close what was meant
        raise UsageError(
            "gateway.empty_option",
            tr("{option} is empty", option=option),
            tr("name at least one, or leave {option} out", option=option),
        )
    return found


def _read_key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = (sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")).strip()
    except UnicodeDecodeError:
        key = ""
    if not key.isascii() or not key.isprintable() or not key:
        raise UsageError(
            "gateway.bad_key_file",
            tr("{path} holds no key: one line of ASCII text is expected", path=path),
            tr("put the key in it: `printf %s KEY > {path}`", path=path),
        )
    return key


def _price(price_in: str | None, price_out: str | None) -> Price | None:
    from slipway.gateway import Price, parse_money

    if price_in is None and price_out is None:
        return None
    if price_in is None or price_out is None:
        raise UsageError(
            "gateway.half_price", tr("give both `--price-in` and `--price-out`, or neither")
        )
    return Price(parse_money(price_in, "--price-in"), parse_money(price_out, "--price-out"))


def _money(micro: int) -> str:
    whole = f"{micro / MICRO:.6f}".rstrip("0")
    return whole + "0" * max(0, 2 - len(whole.partition(".")[2]))


def _state(enabled: bool) -> str:
    return str(tr("enabled") if enabled else tr("disabled"))


def _time(at_ms: int | None) -> str:
    from slipway.gateway.clock import to_rfc3339

    text = to_rfc3339(at_ms)
    return f"{text[:10]} {text[11:16]}" if text else "-"


def _prices_json(row: Channel, prices: dict[str, Price]) -> dict[str, Any]:
    return {"prices": {name: prices[name].as_json() for name in row.models if name in prices}}
