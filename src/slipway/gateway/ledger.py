"""The books: each request reserves, then settles or releases, exactly once.

A hold is one row whose state goes `held -> settled | released` by a conditional update, so an
outcome can be written twice without being counted twice. Every step also writes double-entry rows
whose amounts add up to zero:

    reserve   token:7 -r   hold:7 +r
    settle    hold:7 -r    token:7 +(r - cost)   channel:2 +cost
    release   hold:7 -r    token:7 +r

The running sums in `tokens` (`used_micro`, `held_micro`) are changed in the same transaction and
can be proved from the rows with `check_books`.
"""

from __future__ import annotations

import json
import os
import socket
from collections import defaultdict
from functools import cache
from typing import Literal

from sqlalchemy import BigInteger, Connection, bindparam, func, insert, or_, select, update

from slipway.gateway.accounts import Token
from slipway.gateway.clock import now_ms
from slipway.gateway.problems import insufficient_quota
from slipway.gateway.store import Store
from slipway.gateway.tables import entries, holds, requests, spending, tokens

Outcome = Literal["settled", "released"]
_PHASES: dict[Outcome, str] = {"settled": "settle", "released": "release"}

# made once, because making a statement costs more than running it
_AMOUNT, _COST = bindparam("amount", type_=BigInteger), bindparam("cost", type_=BigInteger)
_RESERVE = (
    update(tokens)
    .where(
        tokens.c.id == bindparam("token"),
        or_(
            tokens.c.budget_micro.is_(None),
            tokens.c.used_micro + tokens.c.held_micro + _AMOUNT <= tokens.c.budget_micro,
        ),
    )
    .values(held_micro=tokens.c.held_micro + _AMOUNT, last_used_at=bindparam("at"))
)
_HOLD = insert(holds)
_END_HOLD = (
    update(holds)
    .where(holds.c.request_id == bindparam("request"), holds.c.state == "held")
    .values(state=bindparam("outcome"), ended_at=bindparam("at"))
    .returning(holds.c.token_id, holds.c.amount_micro, holds.c.windows)
)
_SETTLE = (
    update(tokens)
    .where(tokens.c.id == bindparam("token"))
    .values(
        held_micro=tokens.c.held_micro - _AMOUNT,
        used_micro=tokens.c.used_micro + _COST,
    )
)
_SPEND = (
    update(spending)
    .where(
        spending.c.scope == bindparam("of"),
        spending.c.subject == bindparam("whose"),
        spending.c.period == bindparam("when"),
    )
    .values(
        held_micro=spending.c.held_micro - _AMOUNT,
        used_micro=spending.c.used_micro + _COST,
    )
)
_ENTRY = insert(entries)


def reserve(
    db: Connection,
    request_id: str,
    token: Token,
    amount_micro: int,
    *,
    model: str,
    endpoint: str,
) -> None:
    """Set aside what a request may cost at most; check and change are one statement.

    Raises:
        ApiError: 403 when the token's budget does not cover it; nothing is changed.
    """
    at = now_ms()
    changed = db.execute(_RESERVE, {"token": token.id, "amount": amount_micro, "at": at})
    if changed.rowcount != 1:
        row = db.execute(select(tokens).where(tokens.c.id == token.id)).one()
        raise insufficient_quota(amount_micro, row.budget_micro - row.used_micro - row.held_micro)
    hold = {
        "request_id": request_id,
        "token_id": token.id,
        "amount_micro": amount_micro,
        "state": "held",
        "owner": this_process(),
        "model": model,
        "endpoint": endpoint,
        "created_at": at,
    }
    db.execute(_HOLD, hold)
    moves = {f"token:{token.id}": -amount_micro, f"hold:{token.id}": amount_micro}
    _write(db, request_id, "reserve", moves, at)


def settle(db: Connection, request_id: str, cost_micro: int, channel_id: int) -> bool:
    """Charge what a request really cost and give the rest of its reserve back.

    Returns:
        False when the request has an outcome already; nothing is changed then.
    """
    return _end(db, request_id, "settled", cost_micro, f"channel:{channel_id}")


def release(db: Connection, request_id: str) -> bool:
    """Give the whole reserve back.

    Returns:
        False when the request has an outcome already; nothing is changed then.
    """
    return _end(db, request_id, "released", 0, "")


def recover(store: Store) -> int:
    """Release the holds of gateway processes that no longer run, and log those requests.

    Call it at start-up. What such a request generated is unknown, so its key is not charged.

    Returns:
        how many there were.
    """
    with store.write() as db:
        lost = db.execute(
            select(holds, tokens.c.user_id)
            .join(tokens, holds.c.token_id == tokens.c.id)
            .where(holds.c.state == "held")
        ).all()
        lost = [row for row in lost if not _runs(row.owner)]
        for row in lost:
            release(db, row.request_id)
            db.execute(
                insert(requests).values(
                    request_id=row.request_id,
                    created_at=row.created_at,
                    user_id=row.user_id,
                    token_id=row.token_id,
                    model=row.model,
                    endpoint=row.endpoint,
                    prompt_tokens=0,
                    cached_tokens=0,
                    completion_tokens=0,
                    cost_micro=0,
                    priced=True,
                    estimated=True,
                    status=500,
                    error="gateway_died",
                    stream=False,
                    duration_ms=0,
                )
            )
    return len(lost)


def check_books(store: Store) -> list[str]:
    """Prove the running sums from the ledger's rows, slowly and independently.

    Returns:
        one line for each thing that does not add up; empty when the books are right.
    """
    problems: list[str] = []
    with store.read() as db:
        total = func.sum(entries.c.amount_micro)
        unbalanced = (
            select(entries.c.request_id, entries.c.phase, total)
            .group_by(entries.c.request_id, entries.c.phase)
            .having(total != 0)
        )
        for request_id, phase, rest in db.execute(unbalanced):
            problems.append(f"{request_id} {phase}: entries add up to {rest}")
        sums: dict[str, int] = defaultdict(int)
        query = select(entries.c.account, total).group_by(entries.c.account)
        sums.update((account, amount) for account, amount in db.execute(query))
        for row in db.execute(select(tokens)):
            held, spent = sums[f"hold:{row.id}"], -sums[f"token:{row.id}"] - sums[f"hold:{row.id}"]
            if (row.held_micro, row.used_micro) != (held, spent):
                problems.append(
                    f"token {row.id}: used {row.used_micro} held {row.held_micro}, "
                    f"by its entries {spent} and {held}"
                )
        problems += _held_in_periods(db)
    return problems


def _held_in_periods(db: Connection) -> list[str]:
    """What is held in the budgets of a period must be what running requests hold there."""
    held: dict[tuple[str, ...], int] = defaultdict(int)
    running = select(holds.c.amount_micro, holds.c.windows).where(holds.c.state == "held")
    for amount, windows in db.execute(running):
        for window in json.loads(windows or "[]"):
            held[tuple(window)] += amount
    return [
        f"{row.scope} {row.subject} {row.period}: held {row.held_micro}, by its requests "
        f"{held[(row.scope, row.subject, row.period)]}"
        for row in db.execute(select(spending))
        if row.held_micro != held[(row.scope, row.subject, row.period)]
    ]


@cache
def this_process() -> str:
    """The owner of this process's holds: machine, process id and its start time."""
    import psutil

    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _runs(owner: str) -> bool:
    """Whether a hold's owner is alive; on another machine it is taken to be."""
    import psutil

    host, pid, started = owner.rsplit("/", 2)
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(pid))
        alive = process.status() != psutil.STATUS_ZOMBIE
        # the id may have been given to another program since
        return alive and abs(process.create_time() - float(started)) < 1
    except psutil.NoSuchProcess:
        return False


def _end(db: Connection, request_id: str, outcome: Outcome, cost: int, income: str) -> bool:
    at = now_ms()
    ended = {"request": request_id, "outcome": outcome, "at": at}
    hold = db.execute(_END_HOLD, ended).first()
    if hold is None:
        return False
    sums = {"token": hold.token_id, "amount": hold.amount_micro, "cost": cost}
    db.execute(_SETTLE, sums)
    for scope, subject, period in json.loads(hold.windows or "[]"):
        window = {"of": scope, "whose": subject, "when": period}
        db.execute(_SPEND, {"amount": hold.amount_micro, "cost": cost, **window})
    moves = {
        f"hold:{hold.token_id}": -hold.amount_micro,
        f"token:{hold.token_id}": hold.amount_micro - cost,
    }
    if income:
        moves[income] = cost
    _write(db, request_id, _PHASES[outcome], moves, at)
    return True


def _write(db: Connection, request_id: str, phase: str, moves: dict[str, int], at: int) -> None:
    rows = [
        {
            "request_id": request_id,
            "phase": phase,
            "account": account,
            "amount_micro": amount,
            "created_at": at,
        }
        for account, amount in moves.items()
        if amount
    ]
    if rows:
        db.execute(_ENTRY, rows)
