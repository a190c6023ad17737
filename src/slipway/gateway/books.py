"""The ledger's hot side: reserves and outcomes of many requests, in one transaction at a time.

One thread owns one connection. Whatever waits when it is free goes into one commit, so that a
single request is booked at once and a thousand a second share their commits. The statements are
those of `ledger`, which stays the plain version that tests compare with.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from slipway.gateway.ledger import this_process
from slipway.gateway.limits.rules import Window
from slipway.gateway.problems import ApiError, budget_spent, insufficient_quota
from slipway.gateway.store import Store
from slipway.gateway.usage import RequestRecord

log = logging.getLogger("slipway.gateway")

_BATCH = 256
_CHECKPOINT_S = 0.5

_RESERVE = (
    "UPDATE tokens SET held_micro = held_micro + ?, last_used_at = ? WHERE id = ? AND"
    " (budget_micro IS NULL OR used_micro + held_micro + ? <= budget_micro)"
)
_SPENT = (
    "SELECT used_micro, held_micro FROM spending WHERE scope = ? AND subject = ? AND period = ?"
)
_HOLD_SPENDING = (
    "INSERT INTO spending (scope, subject, period, used_micro, held_micro) VALUES (?, ?, ?, 0, ?)"
    " ON CONFLICT (scope, subject, period)"
    " DO UPDATE SET held_micro = spending.held_micro + excluded.held_micro"
)
_SPEND = (
    "UPDATE spending SET held_micro = held_micro - ?, used_micro = used_micro + ?"
    " WHERE scope = ? AND subject = ? AND period = ?"
)
_LEFT = "SELECT budget_micro - used_micro - held_micro FROM tokens WHERE id = ?"
_HOLD = (
    "INSERT INTO holds (request_id, token_id, amount_micro, state, owner, model, endpoint,"
    " created_at, windows) VALUES (?, ?, ?, 'held', ?, ?, ?, ?, ?)"
)
_END = (
    "UPDATE holds SET state = ?, ended_at = ? WHERE request_id = ? AND state = 'held'"
    " RETURNING token_id, amount_micro, windows"
)
_SETTLE = "UPDATE tokens SET held_micro = held_micro - ?, used_micro = used_micro + ? WHERE id = ?"
_ENTRY = (
    "INSERT INTO entries (request_id, phase, account, amount_micro, created_at)"
    " VALUES (?, ?, ?, ?, ?)"
)
_REQUEST = (
    "INSERT INTO requests (request_id, client_request_id, created_at, user_id, token_id,"
    " channel_id, model, endpoint, prompt_tokens, cached_tokens, completion_tokens, cost_micro,"
    " priced, estimated, status, error, stream, ttft_ms, duration_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class StaleError(Exception):
    """The catalogue changed since the request was admitted; admit it again with the new one.

    Attributes:
        revision: the catalogue's revision in the database.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


class Execute(Protocol):
    """Runs a statement with `?` for its values, and gives the cursor."""

    def __call__(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """Run it."""
        ...


@dataclass(frozen=True, slots=True)
class Reserve:
    """What a request may cost at most, to be set aside.

    Attributes:
        revision: of the catalogue by which the request was admitted.
        budgets: windows of `spending` that it counts in, with what may be spent in each.
    """

    request_id: str
    token_id: int
    amount_micro: int
    model: str
    endpoint: str
    created_at: int
    revision: int
    budgets: Sequence[tuple[Window, int]] = ()

    def book(self, execute: Execute, revision: int) -> None:
        """Set it aside.

        Raises:
            StaleError: the catalogue is newer than the admission.
            ApiError: 403 when the token's budget, or one of a period, does not cover it.
        """
        if revision != self.revision:
            raise StaleError(revision)
        amount, token = self.amount_micro, self.token_id
        for window, most in self.budgets:
            used, held = execute(_SPENT, window).fetchone() or (0, 0)
            if used + held + amount > most:
                raise budget_spent(window[0], window[2], amount, most - used - held)
        changed = execute(_RESERVE, (amount, self.created_at, token, amount))
        if changed.rowcount != 1:
            left = execute(_LEFT, (token,)).fetchone()
            raise insufficient_quota(amount, left[0] if left else 0)
        hold = (self.request_id, token, amount, this_process())
        windows = None
        if self.budgets:
            windows = orjson.dumps([window for window, _ in self.budgets]).decode()
            for window, _ in self.budgets:
                execute(_HOLD_SPENDING, (*window, amount))
        execute(_HOLD, (*hold, self.model, self.endpoint, self.created_at, windows))
        if amount:
            move = (self.request_id, "reserve")
            execute(_ENTRY, (*move, f"token:{token}", -amount, self.created_at))
            execute(_ENTRY, (*move, f"hold:{token}", amount, self.created_at))


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended: charged when `settle` is set, else its reserve is given back."""

    row: RequestRecord
    settle: bool
    ended_at: int

    def book(self, execute: Execute, _revision: int) -> bool:
        """Write the outcome and the usage row; False when there is an outcome already."""
        row, at = self.row, self.ended_at
        state, phase = ("settled", "settle") if self.settle else ("released", "release")
        found = execute(_END, (state, at, row.request_id)).fetchone()
        if found is None:
            return False
        token, amount, windows = found
        cost = row.cost_micro if self.settle else 0
        execute(_SETTLE, (amount, cost, token))
        for window in orjson.loads(windows) if windows else ():
            execute(_SPEND, (amount, cost, *window))
        moves = [(f"hold:{token}", -amount), (f"token:{token}", amount - cost)]
        if self.settle:
            moves.append((f"channel:{row.channel_id}", cost))
        for account, micro in moves:
            if micro:
                execute(_ENTRY, (row.request_id, phase, account, micro, at))
        execute(_REQUEST, _values(row))
        return True


def _values(row: RequestRecord) -> tuple[Any, ...]:
    usage = row.usage
    return (
        row.request_id,
        row.client_request_id,
        row.created_at,
        row.user_id,
        row.token_id,
        row.channel_id,
        row.model,
        row.endpoint,
        usage.prompt,
        usage.cached,
        usage.completion,
        row.cost_micro,
        row.priced,
        usage.estimated,
        row.status,
        row.error,
        row.stream,
        row.ttft_ms,
        row.duration_ms,
    )


@dataclass(slots=True)
class _Job:
    entry: Reserve | Ending
    done: asyncio.Future[Any]
    outcome: Any = None
    error: BaseException | None = None


class Books:
    """Books reserves and outcomes; one for each gateway process, used by one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: threading.Thread | None = None
        self._checkpoints: threading.Thread | None = None
        self._dirty = threading.Event()
        self._closing = threading.Event()

    async def reserve(self, entry: Reserve) -> None:
        """Set aside what a request may cost; see `Reserve.book` for what is raised.

        A caller that is cancelled meanwhile must end the request all the same.
        """
        await asyncio.shield(self._post(entry))

    async def end(self, entry: Ending) -> bool:
        """Write an outcome; False when there is one already.

        Raises:
            SlipwayError: the database is busy or full; nothing was written.
        """
        return bool(await asyncio.shield(self._post(entry)))

    def end_later(self, entry: Ending) -> None:
        """Write an outcome for which nobody waits; `close` waits for it."""
        self._post(entry).add_done_callback(_log_failure)

    async def close(self) -> None:
        """Write what waits, and let go of the database."""
        self._closing.set()
        self._dirty.set()
        self._jobs.put(None)
        for thread in (self._writer, self._checkpoints):
            if thread is not None:
                await asyncio.to_thread(thread.join)

    def _post(self, entry: Reserve | Ending) -> asyncio.Future[Any]:
        if self._loop is None:
            self._start()
        assert self._loop is not None
        job = _Job(entry, self._loop.create_future())
        self._jobs.put(job)
        return job.done

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._write, name="gateway-books", daemon=True)
        self._writer.start()
        if self._store.checkpoints:
            target = self._checkpoint
            self._checkpoints = threading.Thread(target=target, name="gateway-wal", daemon=True)
            self._checkpoints.start()

    def _write(self) -> None:
        connection = _Connection(self._store)
        last = False
        while not last:
            job = self._jobs.get()
            batch: list[_Job] = []
            while job is not None:
                batch.append(job)
                if len(batch) == _BATCH:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            last = job is None
            if batch:
                _book(connection, batch)
                self._dirty.set()
                assert self._loop is not None
                try:
                    self._loop.call_soon_threadsafe(_deliver, batch)
                except RuntimeError:  # the loop is closed: nobody waits, the books are written
                    log.warning("the gateway stopped before it told %d outcomes", len(batch))
        connection.close()

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the file, so that no commit has to."""
        while not self._closing.is_set():
            self._dirty.wait()
            self._dirty.clear()
            self._store.checkpoint()
            self._closing.wait(_CHECKPOINT_S)


class _Connection:
    """The writer's connection, opened anew when it broke."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._raw: Any = None

    def run(self, jobs: Sequence[_Job]) -> None:
        """Book all in one transaction; what one job refuses is its own outcome.

        Raises:
            SlipwayError: the database refused; nothing was written.
        """
        with self._store.explain():
            if self._raw is None:
                self._raw = self._store.hot_connection()
            try:
                self._raw.begin()
                revision = self._raw.execute("SELECT value FROM revision").fetchone()[0]
                for job in jobs:
                    job.outcome = job.error = None
                    try:
                        job.outcome = job.entry.book(self._raw.execute, revision)
                    except (StaleError, ApiError) as refusal:  # before it changed anything
                        job.error = refusal
                self._raw.commit()
            except BaseException:
                self._abandon()
                raise

    def _abandon(self) -> None:
        try:
            self._raw.rollback()
        except Exception:
            log.exception("the database's connection is lost")
            self.close()

    def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()


def _book(connection: _Connection, batch: list[_Job]) -> None:
    """Book a batch; when it fails as a whole, each by itself, so that one cannot fail others."""
    try:
        connection.run(batch)
        return
    except Exception as error:
        if len(batch) == 1:
            batch[0].error = error
            return
    for job in batch:
        try:
            connection.run([job])
        except Exception as error:
            job.error = error


def _log_failure(done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and (error := done.exception()):
        log.error("an outcome is not in the books: %s", error)


def _deliver(batch: list[_Job]) -> None:
    for job in batch:
        if job.done.done():
            continue
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.outcome)
