"""What is measured of each gateway in each round, and what the rounds say together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from gateway_load.client import Target, run
from gateway_load.processes import cpu_s, rss_mb

DIRECT = "direct"
_BLOCK = 25  # requests one after the other before it is the next gateway's turn
_SKIP = 3  # of them first ones on new connections, not counted


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        requests: one after the other, for each gateway and round.
        levels: numbers of connections that load it at once, each for `seconds`.
        streams: at once, each of `events` events; `singles` more run one after the other.
    """

    rounds: int = 5
    requests: int = 200
    levels: tuple[int, ...] = (8, 32, 64)
    seconds: float = 2.0
    streams: int = 16
    events: int = 200
    singles: int = 10
    warmup: int = 100


QUICK = Plan(1, 10, (4,), 0.2, 4, 20, 2, 5)


@dataclass
class Subject:
    """One gateway, or the upstream itself, with all that was measured of it.

    Attributes:
        seconds: of single requests, a list for each round.
        rates: connections -> requests per second of each round; `cpu_ms` likewise per request.
        first_ms: time to the first byte of single streams; `first_many_ms` of streams at once.
        sent: all requests, warm-up included.
    """

    target: Target
    pid: int
    start_s: float = 0.0
    rss_start_mb: float = 0.0
    rss_end_mb: float = 0.0
    seconds: list[list[float]] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    events_per_s: list[float] = field(default_factory=list)
    cpu_us_per_event: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    first_many_ms: list[float] = field(default_factory=list)
    sent: int = 0

    @property
    def name(self) -> str:
        return self.target.name


async def measure(subjects: Sequence[Subject], plan: Plan) -> None:
    """Warm up, then all rounds; within a round the subjects take turns at each thing."""
    for subject in subjects:
        subject.rss_start_mb = rss_mb(subject.pid)
        await _load(subject, connections=4, requests=plan.warmup, seconds=10)
        await _load(subject, requests=2, events=plan.events)
    for number in range(plan.rounds):
        order = [*subjects[number % len(subjects) :], *subjects[: number % len(subjects)]]
        await _one_by_one(order, plan)
        for connections in plan.levels:
            for subject in order:
                await _saturate(subject, connections, plan.seconds)
        for subject in order:
            await _stream(subject, plan)
    for subject in subjects:
        subject.rss_end_mb = rss_mb(subject.pid)


async def _load(subject: Subject, **how: Any) -> Any:
    load = await run(subject.target, **how)
    subject.sent += load.answers
    return load


async def _one_by_one(order: Sequence[Subject], plan: Plan) -> None:
    for subject in order:
        subject.seconds.append([])
    for _ in range(max(1, plan.requests // _BLOCK)):
        for subject in order:
            block = min(_BLOCK, plan.requests) + _SKIP
            load = await _load(subject, requests=block, seconds=10, skip=_SKIP)
            subject.seconds[-1].extend(load.seconds)


async def _saturate(subject: Subject, connections: int, seconds: float) -> None:
    before = cpu_s(subject.pid)
    load = await _load(subject, connections=connections, seconds=seconds)
    used = cpu_s(subject.pid) - before
    subject.rates.setdefault(connections, []).append(load.answers / load.wall_s)
    subject.cpu_ms.setdefault(connections, []).append(1000 * used / load.answers)


async def _stream(subject: Subject, plan: Plan) -> None:
    before = cpu_s(subject.pid)
    load = await _load(subject, connections=plan.streams, requests=plan.streams, events=plan.events)
    subject.events_per_s.append(load.events / load.wall_s)
    subject.cpu_us_per_event.append(1e6 * (cpu_s(subject.pid) - before) / load.events)
    subject.first_many_ms.extend(1000 * first for first in load.first_s)
    load = await _load(subject, requests=plan.singles + 1, events=8, skip=1)
    subject.first_ms.extend(1000 * first for first in load.first_s)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def numbers(subject: Subject, direct: Subject) -> dict[str, Any]:
    """The raw numbers of one subject.

    `added_ms_p50` is the median over rounds of the difference of the rounds' medians, with its
    quartiles; `added_ms_p99` is the difference of the 99th percentiles over all rounds.
    """
    peak = max(subject.rates, key=lambda level: statistics.median(subject.rates[level]))
    added = [
        1000 * (statistics.median(own) - statistics.median(bare))
        for own, bare in zip(subject.seconds, direct.seconds, strict=True)
    ]
    pooled, bare = (list(chain(*each.seconds)) for each in (subject, direct))
    first = statistics.median(subject.first_ms)
    return {
        "latency_ms_p50": 1000 * statistics.median(pooled),
        "latency_ms_p99": 1000 * quantile(pooled, 0.99),
        "added_ms_p50": statistics.median(added),
        "added_ms_p50_quartiles": [quantile(added, 0.25), quantile(added, 0.75)],
        "added_ms_p99": 1000 * (quantile(pooled, 0.99) - quantile(bare, 0.99)),
        "requests_per_s": statistics.median(subject.rates[peak]),
        "requests_per_s_at": {n: statistics.median(r) for n, r in subject.rates.items()},
        "connections_at_peak": peak,
        "cpu_ms_per_request": statistics.median(subject.cpu_ms[peak]),
        "events_per_s": statistics.median(subject.events_per_s),
        "cpu_us_per_event": statistics.median(subject.cpu_us_per_event),
        "ttft_ms_p50": first,
        "added_ttft_ms_p50": first - statistics.median(direct.first_ms),
        "ttft_many_ms_p50": statistics.median(subject.first_many_ms),
        "rss_start_mb": subject.rss_start_mb,
        "rss_end_mb": subject.rss_end_mb,
        "start_s": subject.start_s,
        "requests_sent": subject.sent,
        "keys_used": len(subject.target.keys),
    }


def ratios(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> dict[str, float]:
    """Ours over theirs; of rates more is better, of all else less."""
    pairs = {
        "requests_per_s": "requests_per_s",
        "added_p50": "added_ms_p50",
        "added_p99": "added_ms_p99",
        "cpu_per_request": "cpu_ms_per_request",
        "events_per_s": "events_per_s",
        "cpu_per_event": "cpu_us_per_event",
        "added_ttft": "added_ttft_ms_p50",
        "rss": "rss_end_mb",
    }
    return {
        f"ratio_{short}_{name}": ours[key] / theirs[key]
        for short, key in pairs.items()
        if theirs[key]
    }
