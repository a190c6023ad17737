"""What an administrator allows to a token, a user, a group or a model; kept in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, delete, func, insert, select, update

from slipway.core.errors import NotFoundError, UsageError, nearest
from slipway.core.i18n import tr
from slipway.gateway.clock import now_ms
from slipway.gateway.store import Store
from slipway.gateway.tables import limits, requests, spending, tokens, users

Scope = Literal["token", "user", "group", "model"]
Period = Literal["day", "month", "total"]
Window = tuple[str, str, str]
"""A budget's row: scope, subject, and period such as `2026-11-27`, `2026-11` or `total`."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What is allowed; None is no limit.

    Attributes:
        rpm: requests in any minute.
        tpm: tokens in any minute, prompt and answer.
        concurrency: requests at once.
        day_micro, month_micro, total_micro: spending in a day, a month (both UTC) and in all, in
            millionths of the currency.
    """

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    day_micro: int | None = None
    month_micro: int | None = None
    total_micro: int | None = None

    def budgets(self, at_ms: int) -> list[tuple[str, int]]:
        """Periods that a moment belongs to, with what may be spent in each."""
        amounts = {"day": self.day_micro, "month": self.month_micro, "total": self.total_micro}
        return [
            (name_of(period, at_ms), amounts[period])  # type: ignore[misc]
            for period in get_args(Period)
            if amounts[period] is not None
        ]


NO_LIMIT = Limit()


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit with whom it is for, and what of its budgets is used and held now."""

    scope: Scope
    subject: str
    name: str
    limit: Limit
    used_micro: Mapping[str, int]
    held_micro: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The row as JSON."""
        used = {"used_micro": dict(self.used_micro), "held_micro": dict(self.held_micro)}
        head = {"scope": self.scope, "subject": self.subject, "name": self.name}
        return {**head, **asdict(self.limit), **used}


def name_of(period: Period, at_ms: int) -> str:
    """The period that a moment belongs to."""
    if period == "total":
        return "total"
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def set_limit(store: Store, scope: Scope, name: str, limit: Limit) -> LimitRow:
    """Set what is allowed, in place of an earlier limit; counts from the next request on.

    What was spent already in a period counts in its budget.

    Args:
        name: of a token, user, group or model; a token also by the prefix of its key.

    Raises:
        NotFoundError: no such token or user.
        UsageError: a limit that is not positive, or none at all.
    """
    values = asdict(limit)
    given = {key: value for key, value in values.items() if value is not None}
    if not given or any(value <= 0 for value in given.values()):
        raise UsageError("gateway.bad_limit", tr("give at least one limit, each greater than zero"))
    with store.write() as db:
        subject = _subject(db, scope, name)
        row = {"scope": scope, "subject": subject}
        where = (limits.c.scope == scope, limits.c.subject == subject)
        db.execute(delete(limits).where(*where))
        db.execute(insert(limits).values(**row, **values))
        for period, _ in limit.budgets(now_ms()):
            _open_budget(db, (scope, subject, period))
    return next(r for r in list_limits(store) if (r.scope, r.subject) == (scope, subject))


def remove_limit(store: Store, scope: Scope, name: str) -> None:
    """Take a limit away.

    Raises:
        NotFoundError: there is none.
    """
    with store.write() as db:
        subject = _subject(db, scope, name)
        where = (limits.c.scope == scope, limits.c.subject == subject)
        if db.execute(delete(limits).where(*where)).rowcount == 0:
            raise NotFoundError(
                "gateway.limit_not_found",
                tr("there is no limit for the {scope} `{name}`", scope=scope, name=name),
                tr("list them with `slipway gateway limit ls`"),
            )


def list_limits(store: Store) -> list[LimitRow]:
    """All limits, with what of their budgets is used."""
    at = now_ms()
    found = []
    with store.read() as db:
        names = {
            "token": {
                str(row.id): row.name for row in db.execute(select(tokens.c.id, tokens.c.name))
            },
            "user": {str(row.id): row.name for row in db.execute(select(users.c.id, users.c.name))},
        }
        spent = {
            (row.scope, row.subject, row.period): (row.used_micro, row.held_micro)
            for row in db.execute(select(spending))
        }
        for row in db.execute(select(limits).order_by(limits.c.scope, limits.c.subject)):
            limit = _limit(row)
            keys = [period for period, _ in limit.budgets(at)]
            sums = {key: spent.get((row.scope, row.subject, key), (0, 0)) for key in keys}
            found.append(
                LimitRow(
                    row.scope,
                    row.subject,
                    names.get(row.scope, {}).get(row.subject, row.subject),
                    limit,
                    {key: used for key, (used, _) in sums.items()},
                    {key: held for key, (_, held) in sums.items()},
                )
            )
    return found


def load_limits(db: Connection) -> dict[tuple[str, str], Limit]:
    """All limits within a transaction, by scope and subject."""
    return {(row.scope, row.subject): _limit(row) for row in db.execute(select(limits))}


def _limit(row: Any) -> Limit:
    return Limit(row.rpm, row.tpm, row.concurrency, row.day_micro, row.month_micro, row.total_micro)


def _subject(db: Connection, scope: Scope, name: str) -> str:
    """What the rows of a limit are found by: ids of tokens and users, names of the others."""
    if scope in ("group", "model"):
        return name
    table = tokens if scope == "token" else users
    rows = db.execute(select(table).where(table.c.enabled)).all()
    found = [r for r in rows if name in (r.name, getattr(r, "prefix", None))]
    if len(found) == 1:
        return str(found[0].id)
    if found:
        prefixes = ", ".join(row.prefix for row in found)
        raise UsageError(
            "gateway.token_ambiguous",
            tr("several tokens are named `{name}`", name=name),
            tr("name one by its prefix: {names}", names=prefixes),
        )
    close = nearest(name, [row.name for row in rows])
    raise NotFoundError(
        f"gateway.{scope}_not_found",
        tr("no {scope} `{name}`", scope=scope, name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close)) if close else "",
    )


def _open_budget(db: Connection, window: Window) -> None:
    """Count what was spent before there was a budget."""
    scope, subject, period = window
    column = {
        "token": requests.c.token_id,
        "user": requests.c.user_id,
        "model": requests.c.model,
    }.get(scope)
    spent = select(func.coalesce(func.sum(requests.c.cost_micro), 0))
    if column is None:
        members = select(users.c.id).where(users.c.group == subject)
        spent = spent.where(requests.c.user_id.in_(members))
    else:
        spent = spent.where(column == (subject if scope == "model" else int(subject)))
    if period != "total":
        spent = spent.where(requests.c.created_at >= start_of(period))
    used = db.execute(spent).scalar_one()
    where = (
        spending.c.scope == scope,
        spending.c.subject == subject,
        spending.c.period == period,
    )
    if db.execute(update(spending).where(*where).values(used_micro=used)).rowcount == 0:
        values = {"scope": scope, "subject": subject, "period": period}
        db.execute(insert(spending).values(**values, used_micro=used, held_micro=0))


def start_of(period: str) -> int:
    """When a day or a month begins, UTC milliseconds."""
    form = "%Y-%m-%d" if period.count("-") == 2 else "%Y-%m"
    return int(datetime.strptime(period, form).replace(tzinfo=UTC).timestamp() * 1000)
