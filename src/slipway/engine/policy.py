"""Who is loaded, who waits, who has to go: decisions only, as functions of values.

`plan` looks at the state table and at the waiting requests and says what to do for each. It does no
I/O, reads no clock, and logs nothing. `fair_order` says in which order they are looked at.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slipway.engine.spec import LoadSpec, merged

State = Literal["loading", "ready", "suspect", "stopping"]
"""absent -> loading -> ready -> stopping -> absent; ready -> suspect -> ready | absent."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the state table as the policy sees it.

    Attributes:
        id: which entry; a later one has a larger number.
        leases: requests that are being served.
        last_used: monotonic seconds of the last grant or release.
        memory_bytes: what leaves with it.
        pinned: it is never evicted.
    """

    id: int
    spec: LoadSpec
    state: State
    leases: int
    last_used: float
    memory_bytes: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """A waiting request.

    Attributes:
        caller: for whom it waits; callers take turns.
        waited_s: seconds since it came.
    """

    spec: LoadSpec
    caller: str = ""
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Room:
    """What there is for workers.

    Attributes:
        free_bytes: memory that no worker has or will take.
        max_loaded: workers at once; 0 leaves it to the memory.
        patience_s: seconds after which a request may close a busy model to those behind it.
    """

    free_bytes: int
    max_loaded: int = 0
    patience_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Grant:
    """Serve the request with entry `id`."""

    id: int


@dataclass(frozen=True, slots=True)
class Start:
    """Load `spec`, which serves the request and others like it; the request goes on waiting."""

    spec: LoadSpec


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop idle entries to make room; the request goes on waiting."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It never fits: it needs `needed_bytes`, and `most_bytes` is all that can be made free."""

    needed_bytes: int
    most_bytes: int


Action = Grant | Start | Evict | Wait | Refuse


@dataclass(frozen=True, slots=True)
class Plan:
    """One action for each request, in order, and the idle entries that a newer one replaces."""

    actions: list[Action]
    retire: list[int]


def fair_order(
    asks: Sequence[Ask],
    active: Mapping[tuple[Hashable, str], int],
    served_at: Mapping[tuple[Hashable, str], float],
) -> list[int]:
    """The indices of `asks`, given in order of arrival, in the order in which they are served.

    Among the requests for one model the callers take turns: who is served more now, or has more
    requests before this one, comes later; then who was served last. Models keep the places that
    their requests have.

    Args:
        active: requests that are being served, by model key and caller.
        served_at: when the last request of a caller was served, monotonic seconds.
    """
    places: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, ask in enumerate(asks):
        places[ask.spec.key].append(index)
    order = list(range(len(asks)))
    for key, indices in places.items():
        before: Counter[str] = Counter()
        ranked = []
        for index in indices:
            caller = asks[index].caller
            rank = active.get((key, caller), 0) + before[caller]
            ranked.append((rank, served_at.get((key, caller), -math.inf), index))
            before[caller] += 1
        for place, (_, _, index) in zip(indices, sorted(ranked), strict=True):
            order[place] = index
    return order


def needs_room(rows: Sequence[Row], asks: Sequence[Ask]) -> bool:
    """Whether some request may need another worker, so that free memory matters to the plan."""
    return not all(
        any(row.spec.key == ask.spec.key and row.spec.satisfies(ask.spec) for row in rows)
        for ask in asks
    )


def plan(
    rows: Sequence[Row],
    asks: Sequence[Ask],
    room: Room,
    cooling: frozenset[Hashable] = frozenset(),
) -> Plan:
    """What to do now for each waiting request, in the order given.

    Only idle workers are evicted, the least recently used first; never a pinned one. A stopping
    worker still holds memory; the room it leaves belongs to the first request that needs room.
    A request that has waited `patience_s` for room closes busy models to the requests behind it,
    so that a model under constant load becomes idle.

    Args:
        cooling: keys of models that crashed a moment ago and are not loaded yet.
    """
    planner = _Planner(rows, asks, room, cooling)
    actions = [planner.action(ask) for ask in asks]
    return Plan(actions, planner.replaced())


@dataclass
class _Planner:
    rows: Sequence[Row]
    asks: Sequence[Ask]
    room: Room
    cooling: frozenset[Hashable]
    started: list[LoadSpec] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.leases = {row.id: row.leases for row in self.rows}
        self.free = self.room.free_bytes
        self.count = len(self.rows)
        stopping = [row for row in self.rows if row.state == "stopping"]
        self.coming = sum(row.memory_bytes for row in stopping)
        self.coming_count = len(stopping)
        self.asked = Counter(ask.spec.key for ask in self.asks)

    def action(self, ask: Ask) -> Action:
        key = ask.spec.key
        same = [r for r in self.rows if r.spec.key == key and r.state != "stopping"]
        same = [row for row in same if row.id not in self.gone]
        fitting = [row for row in same if row.spec.satisfies(ask.spec)]
        ready = [r for r in fitting if r.state == "ready" and r.id not in self.closed]
        if ready:
            newest = max(ready, key=lambda row: row.id)
            if self.leases[newest.id] >= newest.spec.slots:
                return Wait()
            self.leases[newest.id] += 1
            return Grant(newest.id)
        under_way = fitting or any(spec.satisfies(ask.spec) for spec in self._started(key))
        if under_way or key in self.cooling:
            return Wait()
        return self._load(ask, same)

    def replaced(self) -> list[int]:
        """Idle entries whose requests a newer entry of the same model can serve."""
        ready = [r for r in self.rows if r.state == "ready" and r.id not in self.gone]
        return [
            old.id
            for old in ready
            if self.leases[old.id] == 0
            and any(
                new.id > old.id and new.spec.key == old.spec.key and new.spec.satisfies(old.spec)
                for new in ready
            )
        ]

    def _started(self, key: Hashable) -> list[LoadSpec]:
        return [spec for spec in self.started if spec.key == key]

    def _load(self, ask: Ask, same: Sequence[Row]) -> Action:
        others = [other.spec for other in self.asks if other.spec.key == ask.spec.key]
        spec = merged(ask.spec, [*others, *(row.spec for row in same)])
        needed = spec.memory_bytes
        movable = [row for row in self.rows if not row.pinned or row in same]
        most = self.room.free_bytes + sum(row.memory_bytes for row in movable)
        if needed > most and ask.spec.memory_bytes < needed:
            spec, needed = ask.spec, ask.spec.memory_bytes  # alone it may fit
        if needed > most:
            return Refuse(needed, most)
        if self._fits(needed, 0, 0):
            self.started.append(spec)
            self.free -= needed
            self.count += 1
            return Start(spec)
        if self._fits(needed, self.coming, self.coming_count):
            self.started.append(spec)
            self.coming -= max(0, needed - max(0, self.free))
            self.free = max(0, self.free - needed)
            self.coming_count = max(0, self.coming_count - 1)
            return Wait()
        return self._make_room(ask, same, needed)

    def _fits(self, needed: int, more_bytes: int, fewer: int) -> bool:
        limit = self.room.max_loaded
        return needed <= self.free + more_bytes and (not limit or self.count - fewer < limit)

    def _make_room(self, ask: Ask, same: Sequence[Row], needed: int) -> Action:
        impatient = ask.waited_s >= self.room.patience_s
        ready = [r for r in self.rows if r.state == "ready" and r.id not in self.gone]
        idle = [
            row
            for row in ready
            if self.leases[row.id] == 0
            and (row in same or not row.pinned)
            and (row in same or impatient or not self.asked[row.spec.key])
        ]
        idle.sort(key=lambda row: (row not in same, row.last_used))
        freed, chosen = self.coming, []
        for row in idle:
            chosen.append(row.id)
            freed += row.memory_bytes
            if self._fits(needed, freed, self.coming_count + len(chosen)):
                self.gone.update(chosen)
                self.started.append(ask.spec)
                return Evict(tuple(chosen))
        if impatient:
            self._close_busy(ready, same, needed, freed, len(chosen))
        return Wait()

    def _close_busy(
        self, ready: Sequence[Row], same: Sequence[Row], needed: int, freed: int, idle: int
    ) -> None:
        """Let nobody new in where room is to be made; the longest loaded first."""
        fewer = self.coming_count + idle
        busy = [r for r in ready if self.leases[r.id] and (r in same or not r.pinned)]
        for row in sorted(busy, key=lambda row: (row not in same, row.id)):
            if self._fits(needed, freed, fewer):
                return
            self.closed.add(row.id)
            freed += row.memory_bytes
            fewer += 1
