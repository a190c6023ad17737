"""Which models are in memory: leases of workers for requests. See DESIGN.md."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from slipway.core.i18n import tr
from slipway.engine.owner import FreeBytes, Owner
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import LoadSpec
from slipway.engine.table import (
    FOREVER_S,
    BusyError,
    Counters,
    Entry,
    Lease,
    Queued,
    Request,
    Resident,
    Waiting,
    WorkerLostError,
)
from slipway.engine.worker import Launcher, Worker


@dataclass
class Residency:
    """Loads, keeps, evicts and buries engine workers.

    Call `start` on the daemon's event loop before the first lease, and `close` at the end.

    Attributes:
        free_bytes: memory that no worker has or will take, given the table.
    """

    launcher: Launcher
    settings: EngineSettings
    free_bytes: FreeBytes
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self._owner = Owner(self.launcher, self.settings, self.free_bytes, self.counters)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the task that owns the table."""
        self._task = asyncio.create_task(self._owner.run(), name="residency")

    async def close(self) -> None:
        """Refuse who waits, stop every worker, and return when all are gone."""
        self._owner.closing = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._owner.close()

    @asynccontextmanager
    async def lease(self, spec: LoadSpec, request: Request) -> AsyncIterator[Lease]:
        """Have a worker for one request, loading the model and making room first if need be.

        Raises:
            BusyError: too many requests wait, or this one waited too long.
            ResourceError: the model does not fit the memory.
            ToolError: the model could not be loaded, or the daemon is stopping.
        """
        owner = self._owner
        keep = request.keep_alive_s
        keep = self.settings.keep_alive_s if keep is None else keep
        granted: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        waiting = Waiting(spec, request, keep, granted, time.monotonic())
        owner.post(lambda: owner.on_ask(waiting))
        try:
            entry = await self._turn(waiting)
        except BusyError:
            owner.post(_look)
            raise
        except asyncio.CancelledError:
            owner.post(_look)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                lost = granted.result()  # granted in the same moment in which the client went
                owner.post(lambda: owner.on_release(lost, waiting, 0.0, failed=False))
            raise
        assert entry.worker is not None
        begun = time.monotonic()
        load_s = max(0.0, min(begun, entry.ready_at) - waiting.asked_at)
        queue_s = begun - waiting.asked_at - load_s
        failed = False
        try:
            yield Lease(entry.worker, entry.spec, spec, load_s, queue_s, waiting.position)
        except WorkerLostError:
            failed = True
            raise
        finally:
            took = time.monotonic() - begun
            owner.post(lambda: owner.on_release(entry, waiting, took, failed=failed))

    def unload(self, spec_gguf: object) -> None:
        """Stop the workers of a GGUF as soon as they are idle."""
        self._owner.post(lambda: self._owner.on_unload(spec_gguf))

    def pin(self, key: Hashable) -> None:
        """Never unload a model that is loaded from now on."""
        self._owner.pinned.add(key)

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
                    FOREVER_S,
                    (now + entry.keep_alive_s if entry.leases else entry.expires_at) - now,
                ),
                entry.resident_bytes(),
                entry.pinned,
            )
            for entry in self._owner.table.values()
            if entry.state != "stopping"
        ]
        return sorted(found, key=lambda resident: -resident.expires_in_s)

    def workers(self) -> list[tuple[str, Worker]]:
        """The workers that can answer, each with its model's name; for questions about them."""
        entries = self._owner.table.values()
        return [(e.name, e.worker) for e in entries if e.state == "ready" and e.worker is not None]

    @property
    def queue_length(self) -> int:
        """Requests that wait for a worker; for display only."""
        return len(self._owner.waiting)

    def queue(self) -> list[Queued]:
        """Who waits, in the order of service within each model; for display only."""
        now = time.monotonic()
        places: dict[Hashable, int] = {}
        found = []
        for waiting in self._owner.ordered(now):
            key = waiting.spec.key
            places[key] = places.get(key, 0) + 1
            request = waiting.request
            waited = now - waiting.asked_at
            found.append(Queued(request.id, request.name, request.caller, places[key], waited))
        return found

    async def _turn(self, waiting: Waiting) -> Entry:
        patience = waiting.request.patience_s
        patience = self.settings.queue_timeout_s if patience is None else patience
        try:
            async with asyncio.timeout(None if patience == math.inf else patience):
                return await waiting.granted
        except TimeoutError:
            granted = waiting.granted
            if granted.done() and not granted.cancelled():
                return granted.result()  # granted in the moment in which the time was over
            raise BusyError(
                "engine.queue_timeout",
                tr("the request waited {seconds:.1f} s for its turn", seconds=patience),
                retry_after_s=self._owner.retry_after(waiting.spec),
            ) from None


def _look() -> None:
    """An event that says nothing: the owner looks who still waits."""
