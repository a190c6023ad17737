"""The gate before the books: requests and tokens of the last minute, and what runs at once.

Counted in this process. A request that finds all places taken waits for one, those of the token
that has the fewest running first; everything else that is full is refused at once with the time
after which it is worth to try again. Used by one event loop, so check and change need no lock.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slipway.gateway.limits.rules import Limit
from slipway.gateway.limits.window import WINDOW_S, Window
from slipway.gateway.problems import ApiError

Subject = tuple[str, str]
"""Scope and subject of a limit."""

Rule = tuple[Subject, Limit]

_SWEEP_AT = 10_000


@dataclass(slots=True)
class Pass:
    """A request that was let in; `leave` it exactly once.

    Attributes:
        headers: `x-ratelimit-*` of the tightest limits, for the answer.
    """

    rules: Sequence[Rule]
    token: Subject
    tokens: int
    headers: dict[str, str] = field(default_factory=dict)
    seconds: list[tuple[Subject, int]] = field(default_factory=list)
    left: bool = False


@dataclass(slots=True)
class _Waiter:
    ticket: Pass
    since: float
    turn: asyncio.Future[None]


class Gate:
    """Counts for one process.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests: dict[Subject, Window] = {}
        self._tokens: dict[Subject, Window] = {}
        self._running: Counter[Subject] = Counter()
        self._waiting: list[_Waiter] = []

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    async def enter(
        self, rules: Sequence[Rule], token: Subject, tokens: int, patience_s: float
    ) -> Pass:
        """Let a request in, or wait for a place.

        Args:
            rules: the limits that hold for it.
            token: whose turn it is; requests of different tokens wait fairly.
            tokens: what it may use, as is known before; corrected by `leave`.
            patience_s: how long it may wait for a place.

        Raises:
            ApiError: 429; nothing is counted.
        """
        self._check_rates(rules, tokens)
        ticket = Pass(rules, token, tokens)
        if self._full(rules) is not None:
            await self._wait(ticket, patience_s)
            try:
                self._check_rates(rules, tokens)  # others came while it waited
            except ApiError:
                self._give_back(ticket)
                raise
        else:
            self._take_places(ticket)
        self._count(ticket)
        return ticket

    def leave(self, ticket: Pass, used_tokens: int | None) -> None:
        """The request is over.

        Args:
            used_tokens: what it used; None when it never came to be answered, so that it does not
                count in the tokens of the minute.
        """
        if ticket.left:
            return
        ticket.left = True
        by = (used_tokens or 0) - ticket.tokens
        for subject, second in ticket.seconds:
            self._tokens[subject].correct(second, by)
        self._give_back(ticket)

    def _check_rates(self, rules: Sequence[Rule], tokens: int) -> None:
        now = self._clock()
        for subject, limit in rules:
            for kind, windows, most, amount in (
                ("requests", self._requests, limit.rpm, 1),
                ("tokens", self._tokens, limit.tpm, tokens),
            ):
                window = windows.get(subject)
                if most is None or window is None:
                    continue
                if wait := window.wait_s(now, amount, most):
                    raise _refused(subject, f"{most} {kind} per minute", wait, kind, most)

    def _count(self, ticket: Pass) -> None:
        now = self._clock()
        if len(self._requests) + len(self._tokens) > _SWEEP_AT:
            self._sweep(now)
        tightest: dict[str, tuple[float, dict[str, str]]] = {}
        for subject, limit in ticket.rules:
            for kind, windows, most, amount in (
                ("requests", self._requests, limit.rpm, 1),
                ("tokens", self._tokens, limit.tpm, ticket.tokens),
            ):
                if most is None:
                    continue
                window = windows.setdefault(subject, Window())
                window.forget(now)
                second = window.add(now, amount)
                if kind == "tokens":
                    ticket.seconds.append((subject, second))
                left = max(0, most - window.total)
                if kind not in tightest or left / most < tightest[kind][0]:
                    tightest[kind] = (left / most, _headers(kind, most, left, WINDOW_S))
        for _, headers in tightest.values():
            ticket.headers |= headers

    def _full(self, rules: Sequence[Rule]) -> Rule | None:
        for subject, limit in rules:
            if limit.concurrency is not None and self._running[subject] >= limit.concurrency:
                return subject, limit
        return None

    def _take_places(self, ticket: Pass) -> None:
        for subject, _ in ticket.rules:
            self._running[subject] += 1

    def _give_back(self, ticket: Pass) -> None:
        for subject, _ in ticket.rules:
            self._running[subject] -= 1
            if self._running[subject] <= 0:
                del self._running[subject]
        self._let_in()

    async def _wait(self, ticket: Pass, patience_s: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(ticket, self._clock(), turn)
        full = self._full(ticket.rules)
        assert full is not None
        if patience_s <= 0:
            raise _too_many(full)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(patience_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # it was let in at this moment
                self._give_back(ticket)
            else:
                self._waiting.remove(waiter)
            if isinstance(error, TimeoutError):
                raise _too_many(full) from None
            raise

    def _let_in(self) -> None:
        """Give free places to who waits: the token with the fewest running, then the oldest."""
        while True:
            free = [w for w in self._waiting if self._full(w.ticket.rules) is None]
            if not free:
                return
            chosen = min(free, key=lambda w: (self._running[w.ticket.token], w.since))
            self._waiting.remove(chosen)
            if not chosen.turn.done():
                self._take_places(chosen.ticket)
                chosen.turn.set_result(None)

    def _sweep(self, now: float) -> None:
        for windows in (self._requests, self._tokens):
            for subject in list(windows):
                windows[subject].forget(now)
                if windows[subject].empty:
                    del windows[subject]


def _headers(kind: str, most: int, left: int, reset_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(most),
        f"x-ratelimit-remaining-{kind}": str(left),
        f"x-ratelimit-reset-{kind}": f"{math.ceil(reset_s)}s",
    }


def _refused(subject: Subject, what: str, wait_s: float, kind: str, most: int) -> ApiError:
    seconds = max(1, math.ceil(wait_s))
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"This {_NAMES[subject[0]]} allows {what}. Try again in {seconds} s.",
        headers={"Retry-After": str(seconds), **_headers(kind, most, 0, seconds)},
    )


def _too_many(full: Rule) -> ApiError:
    subject, limit = full
    return ApiError(
        429,
        "concurrency_limit_exceeded",
        f"This {_NAMES[subject[0]]} allows {limit.concurrency} requests at once, and none ended "
        "in time. Try again later.",
        headers={"Retry-After": "1"},
    )


_NAMES = {"token": "key", "user": "user", "group": "group", "model": "model"}
