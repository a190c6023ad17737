"""The one owner of the table of engine workers and of the queue before it. See DESIGN.md.

One task (`Owner.run`) takes every event from one queue, changes the table, asks `policy.plan` what
to do, and starts the side effects, which come back as events. No other code reads the table to
decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from slipway.core.errors import ResourceError, SlipwayError, from_os_error
from slipway.core.i18n import tr
from slipway.engine.policy import Evict, Grant, Refuse, Room, Start, fair_order, needs_room, plan
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import LoadSpec
from slipway.engine.table import Backoff, BusyError, Counters, Entry, Waiting, stopping
from slipway.engine.worker import Launcher, Worker

logger = logging.getLogger("slipway.engine")

_WATCH_S = 0.25
_LOOK_S = 1.0
_PROBE_S = 2.0
_RECENT = 0.2  # weight of the newest request in the mean duration
_REMEMBERED = 1000  # callers whose last turn is known
_UNKNOWN_S = 5.0  # of a request, before one has ended

FreeBytes = Callable[[list[Entry]], int]
"""Memory that no worker has or will take, given the table."""


@dataclass
class Owner:
    """State and its transitions; `Residency` is the door to it."""

    launcher: Launcher
    settings: EngineSettings
    free_bytes: FreeBytes
    counters: Counters
    table: dict[int, Entry] = field(default_factory=dict)
    waiting: list[Waiting] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    pinned: set[Hashable] = field(default_factory=set)
    closing: bool = False

    def __post_init__(self) -> None:
        self._events: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._ids = count(1)
        self._backoff = Backoff()
        self._mean_s: dict[Hashable, float] = {}
        self._served_at: dict[tuple[Hashable, str], float] = {}

    async def close(self) -> None:
        """Refuse who waits and stop every worker; `run` has been cancelled."""
        self.closing = True
        for waiting in self.waiting:
            if not waiting.granted.done():
                waiting.granted.set_exception(stopping())
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        while not self._events.empty():  # a load that ended just now has left its worker here
            self._events.get_nowait()()
        workers = [entry.worker for entry in self.table.values() if entry.worker]
        self.table.clear()
        await asyncio.gather(*(worker.stop() for worker in workers))

    def post(self, event: Callable[[], None]) -> None:
        """Have an event handled by the owner's task."""
        self._events.put_nowait(event)

    async def run(self) -> None:
        """Handle events until cancelled."""
        while True:
            wait_s = self._next_moment() - time.monotonic()
            try:
                async with asyncio.timeout(None if wait_s == math.inf else max(0.0, wait_s)):
                    event = await self._events.get()
                event()
            except TimeoutError:
                pass
            self._expire()
            self._advance()

    def _next_moment(self) -> float:
        """When something changes although no event comes; infinity for never."""
        now = time.monotonic()
        moments = [e.expires_at for e in self.table.values() if e.state == "ready" and not e.leases]
        for waiting in self.waiting:
            due = (
                waiting.asked_at + self.settings.switch_after_s,
                self._backoff.until(waiting.spec.key),
                now + _LOOK_S,  # memory that other programs held may be free by then
            )
            moments += [moment for moment in due if moment > now]
        return min(moments, default=math.inf)

    def retry_after(self, spec: LoadSpec) -> float:
        """Seconds after which a place is likely, by what requests took lately."""
        ahead = sum(waiting.spec.key == spec.key for waiting in self.waiting)
        return max(1.0, self._mean_s.get(spec.key, _UNKNOWN_S) * ahead / spec.slots)

    def on_ask(self, waiting: Waiting) -> None:
        """A request has come."""
        if waiting.granted.done():
            return  # the client went before its turn came
        ahead = sum(other.spec.key == waiting.spec.key for other in self.waiting)
        if self.closing:
            waiting.granted.set_exception(stopping())
        elif ahead >= self.settings.max_queue:
            busy = BusyError(
                "engine.busy",
                tr("server busy, please try again: {count} requests are waiting", count=ahead),
                retry_after_s=self.retry_after(waiting.spec),
            )
            waiting.granted.set_exception(busy)
        else:
            self.waiting.append(waiting)
            waiting.position = 1 + ahead

    def on_release(self, entry: Entry, waiting: Waiting, took_s: float, *, failed: bool) -> None:
        """A lease has ended, after `took_s` seconds (0: it was never used)."""
        now = time.monotonic()
        caller = waiting.request.caller
        entry.leases -= 1
        entry.callers[caller] -= 1
        if not entry.callers[caller]:
            del entry.callers[caller]
        entry.last_used = now
        entry.keep_alive_s = 0.0 if entry.unwanted else waiting.keep_alive_s
        entry.expires_at = math.inf if entry.pinned else now + entry.keep_alive_s
        if failed:
            if entry.state == "ready":
                entry.state = "suspect"
                self._spawn(self._probe(entry))
        elif took_s:
            mean = self._mean_s.get(entry.spec.key, took_s)
            self._mean_s[entry.spec.key] = mean + _RECENT * (took_s - mean)

    def on_unload(self, gguf: object) -> None:
        """The workers of a GGUF are to go as soon as they are idle."""
        for entry in self.table.values():
            if entry.spec.gguf == gguf:
                entry.unwanted, entry.pinned = True, False
                entry.keep_alive_s = entry.expires_at = 0.0

    def _expire(self) -> None:
        now = time.monotonic()
        for entry in list(self.table.values()):
            if entry.state == "ready" and not entry.leases and entry.expires_at <= now:
                self._stop(entry, "keep-alive is over")

    def ordered(self, now: float) -> list[Waiting]:
        """Who waits, in the order in which they are looked at."""
        active: dict[tuple[Hashable, str], int] = {}
        for entry in self.table.values():
            for caller, leases in entry.callers.items():
                place = (entry.spec.key, caller)
                active[place] = active.get(place, 0) + leases
        asks = [waiting.ask(now) for waiting in self.waiting]
        order = fair_order(asks, active, self._served_at)
        return [self.waiting[index] for index in order]

    def _advance(self) -> None:
        self.waiting = [w for w in self.waiting if not w.granted.done()]
        if not self.waiting and len(self._served_at) > _REMEMBERED:
            self._served_at.clear()
        if self.waiting:
            self._notice_deaths()
        now = time.monotonic()
        waiting = self.ordered(now)
        entries = list(self.table.values())
        rows, asks = [entry.row() for entry in entries], [w.ask(now) for w in waiting]
        free = self.free_bytes(entries) if needs_room(rows, asks) else 0
        room = Room(free, self.settings.max_loaded, self.settings.switch_after_s)
        cooling = frozenset(w.spec.key for w in waiting if self._backoff.until(w.spec.key) > now)
        decided = plan(rows, asks, room, cooling)
        for request, action in zip(waiting, decided.actions, strict=True):
            match action:
                case Grant(id):
                    self._grant(self.table[id], request, now)
                case Start(spec):
                    entry = Entry(next(self._ids), spec, request.request.name)
                    self.table[entry.id] = entry
                    self._spawn(self._load(entry))
                case Evict(ids):
                    for id in ids:
                        entry = self.table[id]
                        Counters.up(self.counters.evictions, entry.name)
                        self._stop(entry, f"room is needed for {request.request.name}")
                case Refuse(needed, most):
                    request.granted.set_exception(_no_room(request, needed, most))
        for id in decided.retire:
            self._stop(self.table[id], "a newer worker has replaced it")

    def _grant(self, entry: Entry, waiting: Waiting, now: float) -> None:
        caller = waiting.request.caller
        entry.leases += 1
        entry.callers[caller] = entry.callers.get(caller, 0) + 1
        entry.unwanted = False
        entry.last_used = now
        entry.name = waiting.request.name
        entry.keep_alive_s = waiting.keep_alive_s
        self._served_at[entry.spec.key, caller] = now
        self.waiting.remove(waiting)
        waiting.granted.set_result(entry)

    def _notice_deaths(self) -> None:
        """Drop idle workers that ended since the watch last looked, before they are granted."""
        for entry in list(self.table.values()):
            idle = entry.state == "ready" and not entry.leases
            if idle and entry.worker and not entry.worker.is_running():
                self._on_gone(entry, crashed=True)

    def _on_loaded(self, entry: Entry, worker: Worker, seconds: float) -> None:
        entry.worker = worker
        entry.state = "ready"
        entry.last_used = entry.ready_at = time.monotonic()
        entry.pinned = entry.spec.key in self.pinned
        # Whoever asked may be gone by now; then the model stays as long as it would have.
        keep = self.settings.keep_alive_s
        entry.expires_at = math.inf if entry.pinned else entry.last_used + keep
        Counters.up(self.counters.loads, entry.name)
        spent = self.counters.load_s
        spent[entry.name] = spent.get(entry.name, 0.0) + seconds
        self._spawn(self._watch(entry, worker))

    def _on_load_failed(self, entry: Entry, error: SlipwayError) -> None:
        self.table.pop(entry.id, None)
        Counters.up(self.counters.load_failures, entry.name)
        logger.error("loading %s failed: %s", entry.name, error)
        for waiting in self.waiting:
            same = entry.spec.key == waiting.spec.key and entry.spec.satisfies(waiting.spec)
            if same and not waiting.granted.done():
                waiting.granted.set_exception(error)

    def _on_gone(self, entry: Entry, *, crashed: bool) -> None:
        if self.table.pop(entry.id, None) and crashed:
            self._crashed(entry)
            logger.error("the engine worker of %s ended unexpectedly", entry.name)

    def _crashed(self, entry: Entry) -> None:
        Counters.up(self.counters.crashes, entry.name)
        self._backoff.crashed(entry.spec.key, time.monotonic())

    def _on_probed(self, entry: Entry, *, alive: bool) -> None:
        if entry.state != "suspect" or entry.id not in self.table:
            return
        if alive:
            entry.state = "ready"
        else:
            self._crashed(entry)
            self._stop(entry, "it does not answer")

    def _stop(self, entry: Entry, reason: str) -> None:
        logger.info("unloading %s: %s", entry.name, reason)
        entry.state = "stopping"
        self._spawn(self._bury(entry))

    def _spawn(self, effect: Coroutine[Any, Any, None]) -> None:
        if self.closing:
            effect.close()
            return
        task = asyncio.create_task(effect)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _load(self, entry: Entry) -> None:
        begun = time.monotonic()
        try:
            worker = await self.launcher(entry.spec)
        except SlipwayError as error:
            failure = error
            self.post(lambda: self._on_load_failed(entry, failure))
            return
        except OSError as error:
            wrapped = from_os_error(error, error.filename or entry.spec.gguf)
            self.post(lambda: self._on_load_failed(entry, wrapped))
            return
        took = time.monotonic() - begun
        logger.info("loaded %s in %.2f s", entry.name, took)
        self.post(lambda: self._on_loaded(entry, worker, took))

    async def _watch(self, entry: Entry, worker: Worker) -> None:
        while worker.is_running():
            await asyncio.sleep(_WATCH_S)
        self.post(lambda: self._on_gone(entry, crashed=entry.state in ("ready", "suspect")))

    async def _probe(self, entry: Entry) -> None:
        """After a lost connection: is the worker dying, or was it only that connection?"""
        assert entry.worker is not None
        # A killed process closes its sockets a moment before it can be seen as ended.
        await asyncio.sleep(_WATCH_S / 5)
        alive = await entry.worker.healthy(_PROBE_S)
        self.post(lambda: self._on_probed(entry, alive=alive))

    async def _bury(self, entry: Entry) -> None:
        assert entry.worker is not None
        await entry.worker.stop()
        self.post(lambda: self._on_gone(entry, crashed=False))


def _no_room(waiting: Waiting, needed: int, most: int) -> ResourceError:
    return ResourceError(
        "engine.no_room",
        tr(
            "{name} needs {needed:.2f} GiB with {ctx} tokens of context and {slots} places, "
            "but at most {most:.2f} GiB can be made free",
            name=waiting.request.name,
            needed=needed / 2**30,
            most=most / 2**30,
            ctx=waiting.spec.num_ctx,
            slots=waiting.spec.slots,
        ),
        tr("ask for less context with `num_ctx`, use a smaller quant, or raise SLIPWAY_MAX_MEMORY"),
    )
