from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.routing.channels_for_tests import MODEL, channel

from slipway.gateway.routing import Channel, Target
from slipway.gateway.routing.breaker import BreakerRules, Outcome, later
from slipway.gateway.routing.breakers import Breakers


def target(own: Channel, key: int | None = None, model: str = MODEL) -> Target:
    return Target(own, "up", model, key)


def send(breakers: Breakers, to: Target, outcome: Outcome, now: float = 0.0) -> None:
    permit = breakers.admit(to, now)
    assert permit is not None
    breakers.report(permit, outcome, now)


def test_a_broken_model_leaves_the_channels_other_models_alone() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1)
    for _ in range(5):
        send(breakers, target(own), "failure")
    assert breakers.standing(1, MODEL, 0.0).state == "open"
    assert breakers.standing(1, "other", 0.0).state == "closed"
    assert breakers.admit(target(own), 0.0) is None
    assert breakers.admit(target(own, model="other"), 0.0) is not None


def test_a_refused_key_takes_itself_out_and_not_its_channel() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1, keys=(4, 5))
    send(breakers, target(own, 4), "key_refused")
    assert breakers.key_standing(1, 4, 0.0).reason == "key_refused"
    assert breakers.standing(1, MODEL, 0.0).state == "closed"
    assert breakers.admit(target(own, 4), 0.0) is None
    assert breakers.admit(target(own, 5), 0.0) is not None


def test_one_403_is_no_proof_against_a_key_but_three_in_a_row_are() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1, keys=(4,))
    for _ in range(2):
        send(breakers, target(own, 4), "key_suspect")
    assert breakers.key_standing(1, 4, 0.0).admits
    send(breakers, target(own, 4), "key_suspect")
    assert breakers.key_standing(1, 4, 0.0).reason == "key_refused"


def test_a_rate_limit_is_the_keys_where_there_are_several_and_else_the_channels() -> None:
    breakers = Breakers(lambda: 0.0)
    send(breakers, target(channel(1, keys=(4, 5)), 4), "rate_limited")
    assert breakers.standing(1, MODEL, 0.0).admits and not breakers.key_standing(1, 4, 0.0).admits
    send(breakers, target(channel(2, keys=(6,)), 6), "rate_limited")
    assert not breakers.standing(2, MODEL, 0.0).admits and breakers.key_standing(2, 6, 0.0).admits


def test_a_key_that_is_refused_gives_the_channels_probe_back() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1, keys=(4, 5))
    for _ in range(5):
        send(breakers, target(own, 5), "failure")
    send(breakers, target(own, 4, "other"), "key_refused")
    assert breakers.admit(target(own, 4), 5.0) is None
    assert breakers.admit(target(own, 5), 5.0) is not None


def test_states_travel_to_another_process_as_json() -> None:
    one, other, own = Breakers(lambda: 0.0), Breakers(lambda: 0.0), channel(1, keys=(4,))
    for _ in range(5):
        send(one, target(own, 4, "org/m:q4"), "failure")
    send(one, target(channel(2, keys=(7,)), 7), "key_refused")
    shared = json.loads(json.dumps(one.changes()))
    assert set(shared) == {"model/1/org/m:q4", "key/2/7"} and one.changes() == {}
    other.load(shared, 0.0)
    assert other.standing(1, "org/m:q4", 0.0).left_s == 5.0
    assert not other.key_standing(2, 7, 0.0).admits
    assert other.changes() == {}


def test_recovery_seen_by_one_process_closes_the_breaker_of_the_other() -> None:
    one, other, own = Breakers(lambda: 0.0), Breakers(lambda: 0.0), channel(1)
    for _ in range(5):
        send(one, target(own), "failure", 0.0)
    other.load(one.changes(), 0.0)
    for _ in range(2):
        send(other, target(own), "ok", 5.0)
    one.load(other.changes(), 5.0)
    assert one.standing(1, MODEL, 5.0).state == "closed"


@pytest.mark.parametrize("name", ["", "model/1", "model/x/m", "key/1/m", "human/1/m"])
def test_a_foreign_name_in_the_shared_store_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="names no breaker"):
        Breakers(lambda: 0.0).load({name: {}}, 0.0)


def test_an_administrators_reset_closes_a_channels_breakers_and_is_shared() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1, keys=(4, 5))
    send(breakers, target(own, 4), "key_refused")
    send(breakers, target(channel(2)), "rate_limited")
    breakers.changes()
    breakers.reset(1, 1.0)
    assert breakers.key_standing(1, 4, 1.0).admits and not breakers.standing(2, MODEL, 0.5).admits
    assert set(breakers.changes()) == {"key/1/4"}


def test_pruning_drops_what_has_long_been_quiet_and_keeps_what_is_open() -> None:
    breakers, own = Breakers(lambda: 0.0), channel(1)
    send(breakers, target(own), "failure", 0.0)
    for _ in range(5):
        send(breakers, target(channel(2)), "failure", 0.0)
    breakers.prune(4000.0)
    breakers.reset(1, 4000.0)
    assert breakers.changes().keys() == {"model/2/m"}
    assert breakers.standing(2, MODEL, 4000.0).state == "half_open"


def test_a_slow_first_byte_counts_as_a_failure_only_where_it_is_asked_for() -> None:
    strict, lenient = Breakers(lambda: 0.0, BreakerRules(slow_s=2.0)), Breakers(lambda: 0.0)
    for breakers, admits in ((strict, False), (lenient, True)):
        for _ in range(5):
            permit = breakers.admit(target(channel(1)), 0.0)
            assert permit is not None
            breakers.first_byte(permit, 3.0, 0.0)
        assert breakers.standing(1, MODEL, 0.0).admits is admits


EVENTS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["ok", "failure", "failure", "rate_limited", "key_refused", "share", "take"]),
    st.integers(0, 9),
)


@given(st.lists(EVENTS, max_size=120))
def test_processes_that_have_exchanged_everything_agree_on_every_breaker(
    events: list[tuple[int, str, int]],
) -> None:
    processes = [Breakers(lambda: 0.5) for _ in range(3)]
    store: dict[str, dict[str, object]] = {}
    now = 0.0

    def share(breakers: Breakers) -> None:
        for name, state in breakers.changes().items():
            store[name] = dict(later(store.get(name, state), state))

    for number, event, wait in events:
        now += wait
        breakers = processes[number]
        if event == "share":
            share(breakers)
        elif event == "take":
            breakers.load(store, now)
        else:
            permit = breakers.admit(target(channel(1, keys=(4,)), 4), now)
            if permit is not None:
                breakers.report(permit, event, now)  # type: ignore[arg-type]
    for breakers in processes:
        share(breakers)
    for breakers in processes:
        breakers.load(store, now)
    for name in store:
        assert len({json.dumps(breakers.export(name)) for breakers in processes}) == 1
    assert len({breakers.standing(1, MODEL, now).state for breakers in processes}) == 1
