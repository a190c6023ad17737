"""A simulation of upstreams in trouble, by events and without a clock of its own."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest
from tests.gateway.routing.channels_for_tests import MODEL, channel

from slipway.gateway.routing.attempts import Attempts, Pause, Router, Sending
from slipway.gateway.routing.breakers import Breakers
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.retry import Failure, RetryBudget
from slipway.gateway.routing.strategy import Ask, RoutingRules, Strategy
from slipway.gateway.routing.table import ChannelTable

RATE = 50
ANSWER_S = 0.2
REFUSAL_S = 0.02
Limits = Callable[[int, float], bool]


@dataclass
class Outcome:
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sends: list[tuple[float, int]] = field(default_factory=list)

    def to(self, channel_id: int, since: float, until: float) -> int:
        return sum(1 for at, to in self.sends if to == channel_id and since <= at < until)


def simulate(limits: Limits, seconds: int, strategy: Strategy = "weighted") -> Outcome:
    """Requests at a steady rate to three channels; `limits` says which answers 429, and when."""
    draws = random.Random(5)
    state = Live(Breakers(draws.random))
    router = Router(
        ChannelTable([channel(n) for n in (1, 2, 3)]),
        state,
        RetryBudget(),
        draws.random,
        RoutingRules(strategy),
    )
    out, order = Outcome(), count()
    # (time, order, the request or None for a new one, whether its answer is a 429 or None)
    events: list[tuple[float, int, Attempts | None, bool | None]] = [
        (n / RATE, next(order), None, None) for n in range(seconds * RATE)
    ]
    heapq.heapify(events)
    while events:
        now, _, attempts, limited = heapq.heappop(events)
        if attempts is None:
            attempts = Attempts(router, Ask(MODEL), now)
        elif limited:
            attempts.failed(Failure("status", 429), now)
        elif limited is not None:
            attempts.answered(ANSWER_S, now)
            attempts.close()
            out.answered += 1
            continue
        step = attempts.next(now)
        if isinstance(step, Sending):
            number = step.target.channel.id
            out.sends.append((now, number))
            limited = limits(number, now)
            wait = REFUSAL_S if limited else ANSWER_S
            heapq.heappush(events, (now + wait, next(order), attempts, limited))
        elif isinstance(step, Pause):
            heapq.heappush(events, (now + step.delay_s, next(order), attempts, None))
        else:
            out.refused[str(attempts.gave_up)] += 1
    return out


@pytest.mark.parametrize("strategy", ["weighted", "least_busy", "latency"])
def test_one_upstream_in_a_storm_of_429_is_left_alone_and_comes_back(strategy: Strategy) -> None:
    out = simulate(lambda to, now: to == 1 and 10 <= now < 40, 120, strategy)
    requests = 120 * RATE
    assert out.answered == requests and not out.refused
    # a crowd at the first moment, then single probes after 1, 2, 4, 8 and 16 seconds
    assert out.to(1, 10, 10.5) <= RATE * ANSWER_S + 5
    assert out.to(1, 11, 40) <= 10
    assert len(out.sends) - requests <= 40
    assert out.to(1, 100, 120) > 0.2 * 20 * RATE


def test_when_all_upstreams_are_in_a_storm_retries_stay_within_their_budget() -> None:
    out = simulate(lambda to, now: now >= 5, 65)
    requests = 65 * RATE
    retries = len(out.sends) - (requests - out.refused["no_channel"])
    assert retries <= 10 + 0.2 * requests + 0.1 * 65
    # 60 s of a storm at 50 requests a second: without breakers that were 3000 sends at least
    assert sum(out.to(n, 6, 65) for n in (1, 2, 3)) < 100
    assert out.answered + sum(out.refused.values()) == requests


def test_upstreams_that_all_recover_serve_everything_again() -> None:
    out = simulate(lambda to, now: 5 <= now < 15, 120)
    late = sum(out.to(n, 60, 120) for n in (1, 2, 3))
    assert late >= 60 * RATE
    assert all(out.to(n, 60, 120) > 0.2 * 60 * RATE for n in (1, 2, 3))
