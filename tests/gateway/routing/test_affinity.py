from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.routing.channels_for_tests import MODEL, channel, live, numbers

from slipway.gateway.routing import Channel
from slipway.gateway.routing.affinity import rendezvous
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.strategy import Ask, RoutingRules, route
from slipway.gateway.routing.table import ChannelTable

PREFIXES = [n * 0x9E3779B97F4A7C15 % (1 << 64) for n in range(3000)]


def first(channels: list[Channel], prefix: int, state: Live | None = None) -> int:
    table, rules = ChannelTable(channels), RoutingRules()
    ask = Ask(MODEL, prefix=prefix)
    return next(route(table, ask, state or live(), rules, 0.0, numbers())).channel.id


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=8), st.data())
def test_when_a_channel_goes_only_its_prefixes_move(ids: set[int], data: st.DataObject) -> None:
    channels = [channel(n) for n in ids]
    gone = data.draw(st.sampled_from(channels))
    left = [c for c in channels if c is not gone]
    for prefix in PREFIXES[:200]:
        before = first(channels, prefix)
        if before != gone.id:
            assert first(left, prefix) == before


def test_the_prefixes_of_a_lost_channel_spread_over_all_others() -> None:
    channels = [channel(n) for n in range(4)]
    moved = Counter(
        first(channels[1:], prefix) for prefix in PREFIXES if first(channels, prefix) == 0
    )
    assert set(moved) == {1, 2, 3} and min(moved.values()) > sum(moved.values()) / 5


def test_prefixes_are_shared_out_by_weight() -> None:
    channels = [channel(1, weight=3), channel(2), channel(3, weight=0)]
    found = Counter(rendezvous(prefix, channels)[0].id for prefix in PREFIXES)
    assert abs(found[1] / len(PREFIXES) - 0.75) < 0.04 and found[3] == 0


def test_a_dead_channel_loses_its_prefixes_and_gets_them_back() -> None:
    channels, state = [channel(n) for n in range(3)], live()
    owner = first(channels, 7, state)
    target = next(
        route(ChannelTable([channels[owner]]), Ask(MODEL), state, RoutingRules(), 0, numbers())
    )
    for _ in range(5):
        permit = state.breakers.admit(target, 0.0)
        assert permit is not None
        state.breakers.report(permit, "failure", 0.0)
    assert first(channels, 7, state) != owner
    state.breakers.reset(owner, 1.0)
    assert first(channels, 7, state) == owner


@given(st.integers(2, 6), st.integers(1, 120))
def test_however_hot_one_prefix_is_no_channel_gets_more_than_the_bound(n: int, hot: int) -> None:
    channels, state, rules = [channel(k) for k in range(n)], live(), RoutingRules()
    for _ in range(hot):
        state.loads.begin(first(channels, 7, state))
    most = max(rules.load_floor, math.ceil(rules.load_bound * hot / n))
    assert max(state.loads.running(k, 0.0) for k in range(n)) <= most


def test_a_channel_with_all_slots_taken_loses_the_prefix_before_the_bound() -> None:
    channels, state = [channel(n, slots=2) for n in range(3)], live()
    placed = [first(channels, 7, state)]
    for _ in range(3):
        state.loads.begin(placed[-1])
        placed.append(first(channels, 7, state))
    assert placed[0] == placed[1] != placed[2] == placed[3]
