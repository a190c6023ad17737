"""Which models are in memory: the one owner of the state table. See DESIGN.md.

Requests ask for a lease; one task (`Residency._run`) takes every event from one queue, changes the
table, asks `policy.plan` what to do, and starts the side effects, which come back as events. No
other code reads the table to decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from slipway.core.errors import ResourceError, SlipwayError, ToolError, from_os_error
from slipway.core.i18n import tr
from slipway.engine.policy import Evict, Grant, Row, Start, State, plan
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import LoadSpec
from slipway.engine.worker import Launcher, Worker

logger = logging.getLogger("slipway.engine")

_WATCH_S = 0.25
_PROBE_S = 2.0
_FOREVER_S = 100 * 365 * 86_400.0


class BusyError(ResourceError):
    """More requests wait for a worker than may wait."""

    http_status = 503


class WorkerLostError(ToolError):
    """The connection to a worker broke; raised inside a lease it makes the worker suspect.

    Attributes:
        unsent: the worker never saw the request, so it may be sent to another.
    """

    unsent: bool = False


@dataclass(slots=True)
class _Entry:
    """A line of the state table."""

    id: int
    spec: LoadSpec
    name: str
    state: State = "loading"
    worker: Worker | None = None
    leases: int = 0
    last_used: float = 0.0
    keep_alive_s: float = 0.0
    expires_at: float = math.inf
    unwanted: bool = False  # to be unloaded once idle, unless it is asked for again

    def row(self) -> Row:
        return Row(self.id, self.spec, self.state, self.leases, self.last_used)


@dataclass(slots=True)
class _Waiting:
    """A request that has no worker yet."""

    spec: LoadSpec
    name: str
    keep_alive_s: float
    granted: asyncio.Future[_Entry]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one request to a worker.

    Attributes:
        spec: how the worker was loaded; its num_ctx may be above what was asked for.
        waited_s: seconds from asking to having it; the load time when the model was not loaded.
    """

    worker: Worker
    spec: LoadSpec
    waited_s: float


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded model, for display only.

    Attributes:
        name: the name by which it was last asked for.
        expires_in_s: seconds until it is unloaded if nothing comes; about a century for ever.
    """

    name: str
    spec: LoadSpec
    state: State
    leases: int
    expires_in_s: float
    memory_bytes: int


@dataclass(slots=True)
class Counters:
    """What happened so far, for the metrics."""

    loads: int = 0
    load_failures: int = 0
    evictions: int = 0
    crashes: int = 0


@dataclass
class Residency:
    """Loads, keeps, evicts and buries engine workers.

    Call `start` on the daemon's event loop before the first lease, and `close` at the end.
    """

    launcher: Launcher
    settings: EngineSettings
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._events: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._table: dict[int, _Entry] = {}
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids = count(1)
        self._owner: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        """Start the task that owns the table."""
        self._owner = asyncio.create_task(self._run(), name="residency")

    async def close(self) -> None:
        """Refuse who waits, stop every worker, and return when all are gone."""
        self._closing = True
        if self._owner:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        for waiting in self._waiting:
            if not waiting.granted.done():
                waiting.granted.set_exception(_stopping())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._events.empty():  # a load that ended just now has left its worker here
            self._events.get_nowait()()
        workers = [entry.worker for entry in self._table.values() if entry.worker]
        self._table.clear()
        await asyncio.gather(*(worker.stop() for worker in workers))

    @asynccontextmanager
    async def lease(
        self, spec: LoadSpec, name: str, keep_alive_s: float | None = None
    ) -> AsyncIterator[Lease]:
        """Have a worker for one request, loading the model and making room first if need be.

        Args:
            name: under which the model is shown while it is loaded.
            keep_alive_s: seconds the worker stays after this request; None is the setting's.

        Raises:
            BusyError: too many requests wait.
            ToolError: the model could not be loaded, or the daemon is stopping.
        """
        begun = time.monotonic()
        keep = self.settings.keep_alive_s if keep_alive_s is None else keep_alive_s
        granted: asyncio.Future[_Entry] = asyncio.get_running_loop().create_future()
        self._post(lambda: self._on_ask(_Waiting(spec, name, keep, granted)))
        try:
            entry = await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                lost = granted.result()  # granted in the same moment in which the client went
                self._post(lambda: self._on_release(lost, keep, failed=False))
            raise
        assert entry.worker is not None
        failed = False
        try:
            yield Lease(entry.worker, entry.spec, time.monotonic() - begun)
        except WorkerLostError:
            failed = True
            raise
        finally:
            self._post(lambda: self._on_release(entry, keep, failed=failed))

    def unload(self, spec_gguf: object) -> None:
        """Stop the workers of a GGUF as soon as they are idle."""
        self._post(lambda: self._on_unload(spec_gguf))

    def residents(self) -> list[Resident]:
        """What is loaded or loading now, longest to stay first; for display only."""
        now = time.monotonic()
        found = [
            Resident(
                entry.name,
                entry.spec,
                entry.state,
                entry.leases,
                min(
                    _FOREVER_S,
                    (now + entry.keep_alive_s if entry.leases else entry.expires_at) - now,
                ),
                entry.worker.memory_bytes() if entry.worker else 0,
            )
            for entry in self._table.values()
            if entry.state != "stopping"
        ]
        return sorted(found, key=lambda resident: -resident.expires_in_s)

    @property
    def queue_length(self) -> int:
        """Requests that wait for a worker; for display only."""
        return len(self._waiting)

    # Everything below runs in the owner task, or is a side effect that posts its outcome.

    def _post(self, event: Callable[[], None]) -> None:
        self._events.put_nowait(event)

    async def _run(self) -> None:
        while True:
            next_expiry = min(
                (e.expires_at for e in self._table.values() if e.state == "ready" and not e.leases),
                default=math.inf,
            )
            wait_s = next_expiry - time.monotonic()
            try:
                async with asyncio.timeout(None if wait_s == math.inf else max(0.0, wait_s)):
                    event = await self._events.get()
                event()
            except TimeoutError:
                pass
            self._expire()
            self._advance()

    def _on_ask(self, waiting: _Waiting) -> None:
        if waiting.granted.done():
            return  # the client went before its turn came
        if self._closing:
            waiting.granted.set_exception(_stopping())
        elif len(self._waiting) >= self.settings.max_queue:
            waiting.granted.set_exception(
                BusyError(
                    "engine.busy",
                    tr(
                        "server busy, please try again: {count} requests are waiting",
                        count=len(self._waiting),
                    ),
                )
            )
        else:
            self._waiting.append(waiting)

    def _on_release(self, entry: _Entry, keep_alive_s: float, *, failed: bool) -> None:
        now = time.monotonic()
        entry.leases -= 1
        entry.last_used = now
        entry.keep_alive_s = 0.0 if entry.unwanted else keep_alive_s
        entry.expires_at = now + entry.keep_alive_s
        if failed and entry.state == "ready":
            entry.state = "suspect"
            self._spawn(self._probe(entry))

    def _on_unload(self, gguf: object) -> None:
        for entry in self._table.values():
            if entry.spec.gguf == gguf:
                entry.unwanted = True
                entry.keep_alive_s = entry.expires_at = 0.0

    def _expire(self) -> None:
        now = time.monotonic()
        for entry in list(self._table.values()):
            if entry.state == "ready" and not entry.leases and entry.expires_at <= now:
                self._stop(entry, "keep-alive is over")

    def _advance(self) -> None:
        self._waiting = [w for w in self._waiting if not w.granted.done()]
        if self._waiting:
            self._notice_deaths()
        rows = [entry.row() for entry in self._table.values()]
        actions = plan(rows, [w.spec for w in self._waiting], self.settings.max_loaded)
        for waiting, action in zip(list(self._waiting), actions, strict=True):
            match action:
                case Grant(id):
                    entry = self._table[id]
                    entry.leases += 1
                    entry.unwanted = False
                    entry.last_used = time.monotonic()
                    entry.name = waiting.name
                    entry.keep_alive_s = waiting.keep_alive_s
                    self._waiting.remove(waiting)
                    waiting.granted.set_result(entry)
                case Start():
                    entry = _Entry(next(self._ids), waiting.spec, waiting.name)
                    self._table[entry.id] = entry
                    self._spawn(self._load(entry))
                case Evict(id):
                    self.counters.evictions += 1
                    self._stop(self._table[id], f"room is needed for {waiting.name}")

    def _notice_deaths(self) -> None:
        """Drop idle workers that ended since the watch last looked, before they are granted."""
        for entry in list(self._table.values()):
            idle = entry.state == "ready" and not entry.leases
            if idle and entry.worker and not entry.worker.is_running():
                self._on_gone(entry, crashed=True)

    def _on_loaded(self, entry: _Entry, worker: Worker) -> None:
        entry.worker = worker
        entry.state = "ready"
        entry.last_used = time.monotonic()
        # Whoever asked may be gone by now; then the model stays as long as it would have.
        entry.expires_at = entry.last_used + self.settings.keep_alive_s
        self.counters.loads += 1
        self._spawn(self._watch(entry, worker))

    def _on_load_failed(self, entry: _Entry, error: SlipwayError) -> None:
        self._table.pop(entry.id, None)
        self.counters.load_failures += 1
        logger.error("loading %s failed: %s", entry.name, error)
        for waiting in self._waiting:
            if waiting.spec.key == entry.spec.key and not waiting.granted.done():
                waiting.granted.set_exception(error)

    def _on_gone(self, entry: _Entry, *, crashed: bool) -> None:
        if self._table.pop(entry.id, None) and crashed:
            self.counters.crashes += 1
            logger.error("the engine worker of %s ended unexpectedly", entry.name)

    def _on_probed(self, entry: _Entry, *, alive: bool) -> None:
        if entry.state != "suspect" or entry.id not in self._table:
            return
        if alive:
            entry.state = "ready"
        else:
            self.counters.crashes += 1
            self._stop(entry, "it does not answer")

    def _stop(self, entry: _Entry, reason: str) -> None:
        logger.info("unloading %s: %s", entry.name, reason)
        entry.state = "stopping"
        self._spawn(self._bury(entry))

    def _spawn(self, effect: Coroutine[Any, Any, None]) -> None:
        if self._closing:
            effect.close()
            return
        task = asyncio.create_task(effect)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, entry: _Entry) -> None:
        begun = time.monotonic()
        try:
            worker = await self.launcher(entry.spec)
        except SlipwayError as error:
            failure = error
            self._post(lambda: self._on_load_failed(entry, failure))
            return
        except OSError as error:
            wrapped = from_os_error(error, error.filename or entry.spec.gguf)
            self._post(lambda: self._on_load_failed(entry, wrapped))
            return
        logger.info("loaded %s in %.2f s", entry.name, time.monotonic() - begun)
        self._post(lambda: self._on_loaded(entry, worker))

    async def _watch(self, entry: _Entry, worker: Worker) -> None:
        while worker.is_running():
            await asyncio.sleep(_WATCH_S)
        self._post(lambda: self._on_gone(entry, crashed=entry.state in ("ready", "suspect")))

    async def _probe(self, entry: _Entry) -> None:
        """After a lost connection: is the worker dying, or was it only that connection?"""
        assert entry.worker is not None
        # A killed process closes its sockets a moment before it can be seen as ended.
        await asyncio.sleep(_WATCH_S / 5)
        alive = await entry.worker.healthy(_PROBE_S)
        self._post(lambda: self._on_probed(entry, alive=alive))

    async def _bury(self, entry: _Entry) -> None:
        assert entry.worker is not None
        await entry.worker.stop()
        self._post(lambda: self._on_gone(entry, crashed=False))


def _stopping() -> ToolError:
    error = ToolError("engine.stopping", tr("the daemon is stopping"))
    error.http_status = 503
    return error
