from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.routing.channels_for_tests import MODEL, channel, live, numbers

from slipway.gateway.routing import Channel
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.strategy import Ask, RoutingRules, Strategy, refusal, route
from slipway.gateway.routing.table import ChannelTable

ASK = Ask(MODEL)


def order(
    channels: list[Channel],
    state: Live | None = None,
    *,
    ask: Ask = ASK,
    strategy: Strategy = "weighted",
    seed: int = 0,
    now: float = 0.0,
) -> list[int]:
    rules = RoutingRules(strategy)
    found = route(ChannelTable(channels), ask, state or live(), rules, now, numbers(seed))
    return [target.channel.id for target in found]


def break_it(state: Live, own: Channel, now: float = 0.0) -> None:
    target = next(route(ChannelTable([own]), ASK, state, RoutingRules(), now, numbers()))
    for _ in range(5):
        permit = state.breakers.admit(target, now)
        assert permit is not None
        state.breakers.report(permit, "failure", now)


def firsts(channels: list[Channel], state: Live, strategy: Strategy, n: int = 4000) -> Counter[int]:
    table, rules, draw = ChannelTable(channels), RoutingRules(strategy), numbers(1)
    return Counter(next(route(table, ASK, state, rules, 0.0, draw)).channel.id for _ in range(n))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_weights_converge_to_shares(weights: list[int]) -> None:
    channels = [channel(n, weight=weight) for n, weight in enumerate(weights)]
    found = firsts(channels, live(), "weighted", 2000)
    for n, weight in enumerate(weights):
        # five standard deviations at the most uncertain share
        assert abs(found[n] / 2000 - weight / sum(weights)) < 0.056


def test_shares_hold_in_a_tier_too_large_to_look_at_every_channel() -> None:
    channels = [channel(n, weight=3 if n < 50 else 1) for n in range(200)]
    found = firsts(channels, live(), "weighted")
    heavy = sum(count for number, count in found.items() if number < 50)
    assert abs(heavy / 4000 - 0.5) < 0.04


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_large_tier_is_tried_whole_each_channel_once_yet_the_first_is_found_cheaply(
    strategy: Strategy,
) -> None:
    channels = [channel(n, weight=n % 3) for n in range(500)]
    assert sorted(order(channels, strategy=strategy)) == list(range(500))
    draws = iter([0.3] * 40)
    next(route(ChannelTable(channels), ASK, live(), RoutingRules(strategy), 0, lambda: next(draws)))


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "priority": st.integers(-1, 1),
                "weight": st.integers(0, 3),
                "enabled": st.booleans(),
                "groups": st.sampled_from([frozenset(), frozenset({"vip"}), frozenset({"a"})]),
                "tags": st.sampled_from([frozenset(), frozenset({"eu"})]),
                "slots": st.sampled_from([None, 1, 4]),
            }
        ),
        max_size=100,
    ),
    st.sampled_from(get_args(Strategy)),
    st.sets(st.integers(0, 99)),
    st.sets(st.integers(0, 99), max_size=8),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_plan_is_a_permutation_of_the_eligible_channels_by_falling_priority(
    rows: list[dict[str, Any]],
    strategy: Strategy,
    excluded: set[int],
    broken: set[int],
    tagged: bool,
    seed: int,
) -> None:
    channels = [channel(n, **row) for n, row in enumerate(rows)]
    state = live()
    for n in broken & set(range(len(channels))):
        break_it(state, replace(channels[n], enabled=True))
    ask = Ask(
        MODEL,
        group="vip",
        excluded=excluded,
        tags=frozenset({"eu"} if tagged else ()),
        prefix=seed if seed % 2 else None,
    )
    found = order(channels, state, ask=ask, strategy=strategy, seed=seed)
    eligible = {c.id for c in channels if refusal(c, ask, state, 0.0) is None}
    assert len(found) == len(set(found)) and set(found) == eligible
    assert not set(found) & (excluded | broken)
    assert all(channels[n].enabled and channels[n].groups <= {"vip"} for n in found)
    priorities = [channels[n].priority for n in found]
    assert priorities == sorted(priorities, reverse=True)


def test_an_open_channel_is_passed_over_for_one_of_a_lower_tier_until_it_may_be_probed() -> None:
    channels, state = [channel(1, priority=9), channel(2)], live()
    break_it(state, channels[0])
    assert order(channels, state) == [2]
    assert order(channels, state, now=5.0) == [1, 2]


def test_a_channel_disabled_by_a_human_never_comes_back_by_itself() -> None:
    own = channel(1, enabled=False, disabled_by="ada")
    state = live()
    state.breakers.reset(1, 0.0)
    for now in (0.0, 1e6, 1e9):
        assert order([own], state, now=now) == []
    found = refusal(own, ASK, state, 1e9)
    assert found is not None and (found.code, found.names) == ("disabled", ("ada",))


@pytest.mark.parametrize(
    ("more", "ask", "code"),
    [
        ({}, Ask(MODEL, pinned=9), "not_pinned"),
        ({"groups": frozenset({"vip"})}, Ask(MODEL, group="default"), "group"),
        ({"tags": frozenset({"eu"})}, Ask(MODEL, tags=frozenset({"eu", "gpu"})), "tag"),
        ({"capabilities": frozenset()}, Ask(MODEL, needs=frozenset({"tools"})), "capability"),
        ({}, Ask(MODEL, excluded={1}), "excluded"),
        ({"needs_key": True}, ASK, "key_missing"),
        ({"keys": (7,)}, Ask(MODEL, excluded_keys={(1, 7)}), "keys_refused"),
    ],
)
def test_each_refusal_has_its_code(more: dict[str, Any], ask: Ask, code: str) -> None:
    own = channel(1, **more)
    found = refusal(own, ask, live(), 0.0)
    assert found is not None and found.code == code
    assert order([own], ask=ask) == []


def test_unknown_capabilities_are_not_held_against_a_channel() -> None:
    assert order([channel(1)], ask=Ask(MODEL, needs=frozenset({"tools"}))) == [1]


def test_pinning_leaves_one_channel_whatever_its_priority() -> None:
    channels = [channel(1, priority=9), channel(2), channel(3)]
    assert order(channels, ask=Ask(MODEL, pinned=3)) == [3]


def test_least_busy_takes_the_emptiest_by_requests_per_slot() -> None:
    channels, state = [channel(1, slots=8), channel(2, slots=2), channel(3, slots=4)], live()
    for number, count in ((1, 2), (2, 1), (3, 3)):
        for _ in range(count):
            state.loads.begin(number)
    assert order(channels, state, strategy="least_busy") == [1, 2, 3]
    state.loads.end(2)
    assert order(channels, state, strategy="least_busy")[0] == 2


def test_an_upstreams_own_report_counts_others_requests_until_it_is_stale() -> None:
    channels, state = [channel(1), channel(2, weight=1)], live()
    state.loads.report(1, slots=4, busy=4, waiting=2, now=0.0)
    assert order(channels, state, strategy="weighted", now=1.0) == [2, 1]
    state.loads.begin(2)
    assert order(channels, state, strategy="least_busy", now=1.0)[0] == 2
    assert order(channels, state, strategy="least_busy", now=60.0)[0] == 1


def test_a_full_channel_stands_behind_those_with_room_and_weight_0_behind_both() -> None:
    channels, state = [channel(1, slots=1, weight=99), channel(2), channel(3, weight=0)], live()
    state.loads.begin(1)
    for strategy in get_args(Strategy):
        assert order(channels, state, strategy=strategy) == [2, 1, 3]


def test_latency_prefers_the_fastest_and_goes_on_exploring_the_others() -> None:
    channels, state = [channel(1), channel(2)], live()
    state.latencies.observe(1, MODEL, 0.1, 0.0)
    state.latencies.observe(2, MODEL, 2.0, 0.0)
    found = firsts(channels, state, "latency")
    # 5 % explore, half of them by weight reach the slow one
    assert 0.012 < found[2] / 4000 < 0.04


def test_latency_measures_a_channel_of_which_nothing_is_known() -> None:
    channels, state = [channel(1), channel(2)], live()
    state.latencies.observe(1, MODEL, 0.1, 0.0)
    state.loads.begin(1)
    assert order(channels, state, strategy="latency")[0] == 2


def test_the_average_time_to_first_token_follows_and_is_forgotten() -> None:
    latencies = live().latencies
    for n in range(30):
        latencies.observe(1, MODEL, 1.0 if n < 15 else 3.0, float(n))
    known = latencies.ttft_s(1, MODEL, 30.0)
    assert known is not None and 2.8 < known < 3.0
    assert latencies.ttft_s(1, MODEL, 1000.0) is None


def test_cost_takes_the_cheapest_first_and_the_unpriced_last() -> None:
    state = live(prices={(1, MODEL): 900, (3, MODEL): 100})
    channels = [channel(n) for n in (1, 2, 3)]
    assert order(channels, state, strategy="cost") == [3, 1, 2]


def test_a_refused_key_is_not_given_out_again() -> None:
    own, state = channel(1, keys=(4, 5)), live()
    table = ChannelTable([own])

    def keys(ask: Ask = ASK) -> set[int | None]:
        draw = numbers()
        return {next(route(table, ask, state, RoutingRules(), 0.0, draw)).key for _ in range(50)}

    assert keys() == {4, 5}
    assert keys(Ask(MODEL, excluded_keys={(1, 5)})) == {4}
    assert len(keys(Ask(MODEL, prefix=77))) == 1
    target = next(
        route(table, Ask(MODEL, excluded_keys={(1, 5)}), state, RoutingRules(), 0, numbers())
    )
    permit = state.breakers.admit(target, 0.0)
    assert permit is not None
    state.breakers.report(permit, "key_refused", 0.0)
    assert keys() == {5}


def test_the_table_answers_as_the_list_of_channels_would() -> None:
    channels = [channel(1, models={"a:latest": "x"}), channel(2, models={"b": "x"}, enabled=False)]
    table = ChannelTable(channels)
    assert table.resolve("a") == "a:latest" and table.resolve("b") is None
    assert [c.id for c in table.of_model("b")] == [2]
