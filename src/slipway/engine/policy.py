"""Who is loaded, who waits, who has to go: decisions only, as functions of values.

`plan` looks at the state table and at the waiting requests, oldest first, and says what to do for
each. It does no I/O, reads no clock, and logs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from slipway.engine.spec import LoadSpec

State = Literal["loading", "ready", "suspect", "stopping"]
"""absent -> loading -> ready -> stopping -> absent; ready -> suspect -> ready | absent."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the state table as the policy sees it.

    Attributes:
        id: which entry.
        leases: requests that are being served.
        last_used: monotonic seconds of the last grant or release.
    """

    id: int
    spec: LoadSpec
    state: State
    leases: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Grant:
    """Serve the request with entry `id`."""

    id: int


@dataclass(frozen=True, slots=True)
class Start:
    """Load the request's model; the request goes on waiting."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop the idle entry `id` to make room; the request goes on waiting."""

    id: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""


Action = Grant | Start | Evict | Wait


def plan(rows: Sequence[Row], waiting: Sequence[LoadSpec], max_loaded: int) -> list[Action]:
    """One action for each waiting request, in order.

    A stopping worker still holds memory, so it counts until it is gone; the room it leaves belongs
    to the oldest request that needs room. Only idle workers are evicted, the least recently used
    first, and never one that another waiting request wants.
    """
    table = {row.id: row for row in rows}
    free = max_loaded - len(rows)
    coming = sum(row.state == "stopping" for row in rows)
    started: set[object] = set()
    wanted = {spec.key for spec in waiting}
    actions: list[Action] = []
    for spec in waiting:
        action = _one(table, spec, free, coming, started, wanted)
        if isinstance(action, Start):
            free -= 1
        elif isinstance(action, Evict):
            del table[action.id]
        elif isinstance(action, Wait) and spec.key not in started and _absent(table, spec):
            coming -= 1
        started.add(spec.key)
        actions.append(action)
    return actions


def _absent(table: dict[int, Row], spec: LoadSpec) -> bool:
    return all(row.spec.key != spec.key or row.state == "stopping" for row in table.values())


def _one(
    table: dict[int, Row],
    spec: LoadSpec,
    free: int,
    coming: int,
    started: Collection[object],
    wanted: Collection[object],
) -> Action:
    same = next((row for row in table.values() if row.spec.key == spec.key), None)
    if same is not None:
        if not same.spec.satisfies(spec):
            idle = same.state == "ready" and same.leases == 0
            return Evict(same.id) if idle else Wait()
        return Grant(same.id) if same.state == "ready" else Wait()
    if spec.key in started:
        return Wait()
    if free > 0:
        return Start()
    if coming > 0:
        return Wait()
    idle_rows = [
        row
        for row in table.values()
        if row.state == "ready" and row.leases == 0 and row.spec.key not in wanted
    ]
    if not idle_rows:
        return Wait()
    return Evict(min(idle_rows, key=lambda row: row.last_used).id)
