"""Channels and prices: made and listed by the command line, read by the relay at each request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from slipway.core.errors import (
    AuthError,
    ConflictError,
    NotFoundError,
    ToolError,
    UnreachableError,
    UsageError,
    nearest,
)
from slipway.core.i18n import Text, tr
from slipway.gateway.accounts import check_name
from slipway.gateway.adapters import auth_headers, endpoint_url
from slipway.gateway.clock import now_ms
from slipway.gateway.outbound import Reach, check_base_url
from slipway.gateway.pricing import Price
from slipway.gateway.routing import (
    LOCAL_KINDS,
    Ask,
    Breakers,
    Channel,
    ChannelKind,
    ChannelTable,
    Explanation,
    Live,
    RetryBudget,
    Router,
    explain,
)
from slipway.gateway.seal import seal, unseal
from slipway.gateway.store import Store
from slipway.gateway.tables import channels, prices

# their lists of models have shapes of their own
_NOT_ASKED: frozenset[ChannelKind] = frozenset({"azure", "anthropic", "gemini"})
_ASK_TIMEOUT_S = 10.0

# made once, because making a statement costs more than running it
_CHANNELS = select(channels).order_by(channels.c.priority.desc(), channels.c.name)
_PRICE = select(prices).where(prices.c.model == bindparam("asked"))


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """What an administrator says about a channel.

    Attributes:
        models: names, or `name=upstream-name`; None to ask the upstream's `/v1/models`.
        api_key: the upstream's own key, sealed before it is stored.
        price: set for each of its models; None leaves prices as they are.
        allow_private: it may lie in a private network or, for kind `openai`, on this machine.
    """

    name: str
    kind: ChannelKind
    url: str
    models: tuple[str, ...] | None = None
    api_key: str | None = None
    price: Price | None = None
    priority: int = 0
    weight: int = 1
    allow_private: bool = False


def add_channel(store: Store, spec: ChannelSpec, *, replace: bool = False) -> Channel:
    """Make a channel.

    Args:
        replace: take the place of a channel of the same name instead of refusing.

    Raises:
        UsageError: bad name, kind, URL or weight; or a paid service without a price.
        UnreachableError, AuthError, ToolError: the upstream was asked for its models and failed.
        ConflictError: the name is taken.
    """
    check_name(spec.name, tr("channel"))
    if spec.kind not in get_args(ChannelKind):
        raise UsageError(
            "gateway.bad_kind",
            tr("`{kind}` is not a kind of channel", kind=spec.kind),
            tr("kinds: {names}", names=", ".join(get_args(ChannelKind))),
        )
    if spec.weight < 0:
        raise UsageError(
            "gateway.bad_limit", tr("{option} must not be negative", option="--weight")
        )
    reach: Reach = "loopback" if spec.kind in LOCAL_KINDS else "public"
    reach = "private" if spec.allow_private else reach
    base_url = check_base_url(spec.url, reach)
    offered = _offered(spec, base_url)
    with store.write() as db:
        if spec.price is None:
            _check_priced(
                db,
                spec.kind,
                offered,
                tr("give `--price-in` and `--price-out` per million tokens; 0 is a price too"),
            )
        values = {
            "kind": spec.kind,
            "base_url": base_url,
            "reach": reach,
            "sealed_key": seal(store.key_file, spec.api_key, spec.name) if spec.api_key else None,
            "models": offered,
            "priority": spec.priority,
            "weight": spec.weight,
            "enabled": True,
        }
        _put_channel(db, spec.name, values, replace=replace)
        if spec.price is not None:
            for model in offered:
                set_price(db, model, spec.price)
        row = db.execute(select(channels).where(channels.c.name == spec.name)).one()
    return _channel(row)


def _offered(spec: ChannelSpec, base_url: str) -> dict[str, str]:
    """The models of a new channel: as they were named, or as its upstream lists them."""
    if spec.models is None and spec.kind in _NOT_ASKED:
        raise UsageError(
            "gateway.no_models",
            tr("channels of the kind `{kind}` are not asked for their models", kind=spec.kind),
            tr("name them with `--models`"),
        )
    offered = (
        {name: name for name in ask_models(base_url, spec.api_key)}
        if spec.models is None
        else _parse_models(spec.models)
    )
    if not offered:
        raise UsageError(
            "gateway.no_models",
            tr("the channel `{name}` has no models", name=spec.name),
            tr("name them with `--models`, or create a model first: `slipway create --help`"),
        )
    return offered


def refresh_channel(store: Store, name: str) -> Channel:
    """Ask a channel's upstream again which models it has.

    Raises:
        NotFoundError: no such channel.
        UsageError: a paid service has models without a price; nothing is changed.
        UnreachableError, AuthError, ToolError: the upstream failed; nothing is changed.
    """
    known = {channel.name: channel for channel in list_channels(store)}
    if name not in known:
        close = nearest(name, known)
        raise NotFoundError(
            "gateway.channel_not_found",
            tr("no channel `{name}`", name=name),
            tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
            if close
            else tr("list them with `slipway gateway channel ls`"),
        )
    channel = known[name]
    there = set(ask_models(channel.base_url, upstream_key(store, channel)))
    renamed = {public: own for public, own in channel.models.items() if public != own}
    kept = {public: own for public, own in renamed.items() if own in there}
    offered = {own: own for own in sorted(there - set(kept.values()))} | kept
    with store.write() as db:
        _check_priced(
            db,
            channel.kind,
            offered,
            tr("add the channel again with `--replace`, `--models`, `--price-in`, `--price-out`"),
        )
        db.execute(update(channels).where(channels.c.id == channel.id).values(models=offered))
        row = db.execute(select(channels).where(channels.c.id == channel.id)).one()
    return _channel(row)


def list_channels(store: Store) -> list[Channel]:
    """All channels, those tried first coming first."""
    with store.read() as db:
        return load_channels(db)


def explain_route(store: Store, model: str, group: str) -> Explanation:
    """Where a request would go by what the database says; a running gateway knows more."""
    table = ChannelTable(list_channels(store))
    live = Live(Breakers(lambda: 0.5))
    router = Router(table, live, RetryBudget(), lambda: 0.5)
    return explain(router, Ask(model, group), now_ms() / 1000)


def load_channels(db: Connection) -> list[Channel]:
    """All channels within a transaction, ordered by priority and name."""
    return [_channel(row) for row in db.execute(_CHANNELS)]


def list_prices(store: Store) -> dict[str, Price]:
    """Model -> price."""
    with store.read() as db:
        return load_prices(db)


def load_prices(db: Connection) -> dict[str, Price]:
    """Model -> price, within a transaction."""
    return {row.model: _price(row) for row in db.execute(select(prices))}


def load_price(db: Connection, model: str) -> Price | None:
    """The price of a model; None when it has none."""
    row = db.execute(_PRICE, {"asked": model}).first()
    return None if row is None else _price(row)


def set_price(db: Connection, model: str, price: Price) -> None:
    """Set the price of a model; requests already answered keep their cost."""
    db.execute(delete(prices).where(prices.c.model == model))
    db.execute(
        insert(prices).values(
            model=model,
            input_micro_per_mtok=price.input,
            cached_micro_per_mtok=price.cached,
            output_micro_per_mtok=price.output,
        )
    )


def upstream_key(store: Store, channel: Channel) -> str | None:
    """The upstream's own key in clear, for use in a request; None when it needs none."""
    if channel.sealed_key is None:
        return None
    return unseal(store.key_file, channel.sealed_key, channel.name)


def ask_models(base_url: str, api_key: str | None) -> list[str]:
    """The ids in an upstream's `/v1/models`, sorted.

    Raises:
        UnreachableError: it did not answer.
        AuthError: it refused the key.
        ToolError: it answered something else than a list of models.
    """
    import httpx

    url = endpoint_url(base_url, "/v1/models")
    try:
        with httpx.Client(timeout=_ASK_TIMEOUT_S, trust_env=False) as client:
            answer = client.get(url, headers=auth_headers(api_key))
    except httpx.HTTPError as error:
        raise UnreachableError(
            "gateway.upstream_unreachable",
            tr("{url} does not answer ({reason})", url=url, reason=type(error).__name__),
            tr("start it (`slipway serve` for this machine's models), or name `--models` yourself"),
        ) from error
    if answer.status_code in (401, 403):
        raise AuthError(
            "gateway.upstream_key_refused",
            tr("{url} refuses the key (HTTP {status})", url=url, status=answer.status_code),
            tr("give the service's key with `--api-key-file FILE`"),
        )
    try:
        return sorted({str(row["id"]) for row in answer.raise_for_status().json()["data"]})
    except (httpx.HTTPStatusError, ValueError, KeyError, TypeError) as error:
        raise ToolError(
            "gateway.upstream_no_models",
            tr("{url} gives no list of models (HTTP {status})", url=url, status=answer.status_code),
            tr("check the address, or name the models with `--models`"),
        ) from error


def _parse_models(names: tuple[str, ...]) -> dict[str, str]:
    pairs = (name.strip().partition("=") for name in names if name.strip())
    return {public.strip(): (own or public).strip() for public, _, own in pairs}


def _check_priced(db: Connection, kind: ChannelKind, offered: Iterable[str], hint: Text) -> None:
    if kind in LOCAL_KINDS:
        return
    unpriced = [model for model in offered if load_price(db, model) is None]
    if unpriced:
        raise UsageError(
            "gateway.unpriced",
            tr("no price for {models}", models=", ".join(f"`{m}`" for m in unpriced[:5])),
            hint,
        )


def _put_channel(db: Connection, name: str, values: dict[str, Any], *, replace: bool) -> None:
    old = db.execute(select(channels.c.id).where(channels.c.name == name)).first()
    if old is None:
        db.execute(insert(channels).values(name=name, created_at=now_ms(), **values))
    elif replace:
        db.execute(update(channels).where(channels.c.id == old.id).values(**values))
    else:
        raise ConflictError(
            "gateway.channel_exists",
            tr("the channel `{name}` exists already", name=name),
            tr("change it by adding it again with `--replace`"),
        )


def _channel(row: Row[Any]) -> Channel:
    return Channel(
        id=row.id,
        name=row.name,
        kind=row.kind,
        base_url=row.base_url,
        reach=row.reach,
        models=row.models,
        priority=row.priority,
        weight=row.weight,
        enabled=row.enabled,
        sealed_key=row.sealed_key,
        created_at=row.created_at,
    )


def _price(row: Row[Any]) -> Price:
    return Price(row.input_micro_per_mtok, row.output_micro_per_mtok, row.cached_micro_per_mtok)
