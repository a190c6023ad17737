"""The lines of residency's tables, and what of them is shown or handed out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from slipway.core.errors import ResourceError, ToolError
from slipway.core.i18n import Text, tr
from slipway.engine.policy import Ask, Row, State
from slipway.engine.spec import LoadSpec
from slipway.engine.worker import Worker

FOREVER_S = 100 * 365 * 86_400.0
_MEASURED_FOR_S = 1.0


class BusyError(ResourceError):
    """Too many requests wait for a model, or one has waited too long.

    Attributes:
        retry_after_s: when it is worth to ask again, by what requests took lately.
    """

    http_status = 503

    def __init__(self, code: str, message: Text, *, retry_after_s: float) -> None:
        super().__init__(code, message)
        self.retry_after_s = retry_after_s


class WorkerLostError(ToolError):
    """The connection to a worker broke; raised inside a lease it makes the worker suspect.

    Attributes:
        unsent: the worker never saw the request, so it may be sent to another.
    """

    unsent: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for a worker, and on what terms.

    Attributes:
        name: under which the model is shown while it is loaded.
        keep_alive_s: seconds the worker stays after this request; None is the setting's.
        caller: requests of different callers for one model take turns.
        id: shown by the queue.
        patience_s: seconds it may wait for its turn, a load included; None is the setting's.
    """

    name: str
    keep_alive_s: float | None = None
    caller: str = ""
    id: str = ""
    patience_s: float | None = None


@dataclass(slots=True)
class Entry:
    """A line of the state table: one worker, from the decision to load it to its end."""

    id: int
    spec: LoadSpec
    name: str
    state: State = "loading"
    worker: Worker | None = None
    leases: int = 0
    callers: dict[str, int] = field(default_factory=dict)
    last_used: float = 0.0
    ready_at: float = 0.0
    keep_alive_s: float = 0.0
    expires_at: float = math.inf
    pinned: bool = False
    unwanted: bool = False  # to be unloaded once idle, unless it is asked for again
    _measured: tuple[float, int] = (0.0, 0)

    def resident_bytes(self) -> int:
        """The worker's resident memory, measured at most once a second."""
        if self.worker is None:
            return 0
        now = time.monotonic()
        if now - self._measured[0] > _MEASURED_FOR_S:
            self._measured = (now, self.worker.memory_bytes())
        return self._measured[1]

    def memory_bytes(self) -> int:
        """What it takes: foreseen while it loads, then measured.

        Weights and caches are in memory once it is ready; compute buffers only after the first
        full batch, so they are added.
        """
        if self.state == "loading" or self.worker is None:
            return self.spec.memory_bytes
        return self.resident_bytes() + self.spec.footprint.compute_bytes

    def row(self) -> Row:
        """The line as the policy sees it."""
        return Row(
            self.id,
            self.spec,
            self.state,
            self.leases,
            self.last_used,
            self.memory_bytes(),
            self.pinned,
        )


@dataclass(slots=True)
class Waiting:
    """A request that has no worker yet.

    Attributes:
        position: its place among the requests for its model when it came, from 1.
    """

    spec: LoadSpec
    request: Request
    keep_alive_s: float
    granted: asyncio.Future[Entry]
    asked_at: float
    position: int = 0

    def ask(self, now: float) -> Ask:
        """The request as the policy sees it."""
        return Ask(self.spec, self.request.caller, now - self.asked_at)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one request to a worker.

    Attributes:
        spec: how the worker was loaded; its num_ctx may be above what was asked for.
        wanted: what was asked for.
        load_s: seconds of waiting in which the model was being loaded.
        queue_s: seconds of waiting for a place.
        position: place in the model's queue when the request came, from 1.
    """

    worker: Worker
    spec: LoadSpec
    wanted: LoadSpec
    load_s: float = 0.0
    queue_s: float = 0.0
    position: int = 1

    @property
    def adapters(self) -> list[dict[str, float]] | None:
        """`lora` of llama-server's requests: 1 for the wanted adapters, 0 for the others.

        All are named: what an empty list leaves open, llama-server fills in. None when there are
        none, or where the worker's adapters are always all wanted.
        """
        if not self.spec.adapters or self.spec.mode != "generate":
            return None
        wanted = set(self.wanted.adapters)
        return [
            {"id": index, "scale": float(path in wanted)}
            for index, path in enumerate(self.spec.adapters)
        ]


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
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting request, for display only; `position` counts from 1 within its model."""

    id: str
    name: str
    caller: str
    position: int
    waited_s: float


@dataclass(slots=True)
class Counters:
    """What happened so far to the models of each name, for the metrics."""

    loads: dict[str, int] = field(default_factory=dict)
    load_failures: dict[str, int] = field(default_factory=dict)
    evictions: dict[str, int] = field(default_factory=dict)
    crashes: dict[str, int] = field(default_factory=dict)
    load_s: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def up(table: dict[str, int], name: str) -> None:
        """Count one more."""
        table[name] = table.get(name, 0) + 1


@dataclass(slots=True)
class Backoff:
    """How long a model that crashed is left alone: 0, 1, 2, 4 ... seconds.

    A model that has lived `forgiven_s` since its last crash begins anew.
    """

    most_s: float = 30.0
    forgiven_s: float = 60.0
    _crashes: dict[Hashable, tuple[int, float]] = field(default_factory=dict)

    def crashed(self, key: Hashable, now: float) -> None:
        """Note a crash."""
        count, last = self._crashes.get(key, (0, -math.inf))
        self._crashes[key] = (1 if now - last > self.forgiven_s else count + 1, now)

    def until(self, key: Hashable) -> float:
        """Monotonic seconds from which on it may be loaded."""
        count, last = self._crashes.get(key, (0, -math.inf))
        return last + (0.0 if count < 2 else min(self.most_s, 2.0 ** (count - 2)))


def stopping() -> ToolError:
    """The daemon ends; what is waiting is refused."""
    error = ToolError("engine.stopping", tr("the daemon is stopping"))
    error.http_status = 503
    return error
