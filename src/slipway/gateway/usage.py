"""The usage log: one row per request that had a valid key and a known model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, case, func, insert, select

from slipway.gateway.clock import to_rfc3339
from slipway.gateway.pricing import Usage
from slipway.gateway.store import Store
from slipway.gateway.tables import channels, requests, tokens, users

_RECORD = insert(requests)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """How a request ended.

    Attributes:
        status: the HTTP status; for a stream that failed after its start the one that it would
            have had, and 499 when the client left before the end.
        error: the error's code; None when it ended well.
        ttft_ms: from the request's arrival to the first byte of the answer.
        priced: whether the model had a price.
    """

    request_id: str
    client_request_id: str | None
    created_at: int
    user_id: int
    token_id: int
    channel_id: int | None
    model: str
    endpoint: str
    usage: Usage
    cost_micro: int
    priced: bool
    status: int
    error: str | None
    stream: bool
    ttft_ms: int | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class UsageLine:
    """Sums over the requests of one (user, token, model, channel), or over all of them.

    `unpriced` requests cost nothing because their model has no price; `estimated` ones were
    counted by the gateway because the upstream did not report.
    """

    user: str
    token: str
    model: str
    channel: str
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cost_micro: int
    unpriced: int
    estimated: int


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """Usage since a time: a line for each combination, and the total."""

    since: str | None
    total: UsageLine
    lines: tuple[UsageLine, ...]

    def as_json(self) -> dict[str, Any]:
        """`{"since", "total": {...}, "lines": [{...}]}` with the fields of `UsageLine`."""
        keys = ("user", "token", "model", "channel")
        total = {key: value for key, value in asdict(self.total).items() if key not in keys}
        return {"since": self.since, "total": total, "lines": [asdict(x) for x in self.lines]}


def record(db: Connection, done: RequestRecord) -> None:
    """Write a request's row."""
    values = asdict(done)
    usage = values.pop("usage")
    values |= {
        "prompt_tokens": usage["prompt"],
        "cached_tokens": usage["cached"],
        "completion_tokens": usage["completion"],
        "estimated": usage["estimated"],
    }
    db.execute(_RECORD, values)


def usage_summary(store: Store, since_ms: int | None = None) -> UsageSummary:
    """What was used, by user, token, model and channel.

    Args:
        since_ms: UTC milliseconds; None for everything.
    """

    def count(condition: Any) -> Any:
        return func.sum(case((condition, 1), else_=0))

    groups = (
        users.c.name,
        tokens.c.name,
        requests.c.model,
        func.coalesce(channels.c.name, ""),
    )
    query = (
        select(
            *groups,
            func.count(),
            count(requests.c.error.is_not(None)),
            func.sum(requests.c.prompt_tokens),
            func.sum(requests.c.completion_tokens),
            func.sum(requests.c.cost_micro),
            count(~requests.c.priced),
            count(requests.c.estimated),
        )
        .join(users, requests.c.user_id == users.c.id)
        .join(tokens, requests.c.token_id == tokens.c.id)
        .outerjoin(channels, requests.c.channel_id == channels.c.id)
        .group_by(requests.c.token_id, *groups)
        .order_by(*groups)
    )
    if since_ms is not None:
        query = query.where(requests.c.created_at >= since_ms)
    with store.read() as db:
        lines = tuple(UsageLine(*row) for row in db.execute(query))
    return UsageSummary(to_rfc3339(since_ms), _sum(lines), lines)


def list_requests(store: Store, limit: int = 50) -> list[dict[str, Any]]:
    """The newest requests first, each as the columns of the `requests` table plus names.

    `created_at` is RFC 3339; costs are micro-units.
    """
    query = (
        select(
            requests,
            users.c.name.label("user"),
            tokens.c.name.label("token"),
            channels.c.name.label("channel"),
        )
        .join(users, requests.c.user_id == users.c.id)
        .join(tokens, requests.c.token_id == tokens.c.id)
        .outerjoin(channels, requests.c.channel_id == channels.c.id)
        .order_by(requests.c.created_at.desc(), requests.c.request_id)
        .limit(limit)
    )
    with store.read() as db:
        rows = [dict(row._mapping) for row in db.execute(query)]
    for row in rows:
        row["created_at"] = to_rfc3339(row["created_at"])
    return rows


def _sum(lines: Iterable[UsageLine]) -> UsageLine:
    lines = list(lines)
    sums = (
        sum(getattr(line, name) for line in lines)
        for name in (
            "requests",
            "errors",
            "prompt_tokens",
            "completion_tokens",
            "cost_micro",
            "unpriced",
            "estimated",
        )
    )
    return UsageLine("", "", "", "", *sums)
