from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.routing.channels_for_tests import MODEL, channel, live, numbers

from slipway.gateway.routing import Channel
from slipway.gateway.routing.attempts import Attempts, Pause, Router, Sending
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.retry import Failure, RetryBudget, RetryPolicy
from slipway.gateway.routing.strategy import Ask
from slipway.gateway.routing.table import ChannelTable
from slipway.gateway.routing.variants import Fallbacks

DOWN = Failure("connect")
NO_DELAY = RetryPolicy(base_s=0.0)


def router(channels: list[Channel], state: Live | None = None, **more: Any) -> Router:
    values = {"policy": NO_DELAY, "budget": RetryBudget(), **more}
    return Router(ChannelTable(channels), state or live(), random=numbers(), **values)


def sending(attempts: Attempts, now: float = 0.0) -> Sending:
    step = attempts.next(now)
    assert isinstance(step, Sending), (step, attempts.gave_up)
    return step


def limited(seconds: float | None = None) -> Failure:
    return Failure("status", 429, retry_after_s=seconds)


def test_each_channel_that_failed_is_left_out_and_the_end_is_said() -> None:
    attempts = Attempts(router([channel(n) for n in range(3)]), Ask(MODEL), 0.0)
    seen = []
    while isinstance(step := attempts.next(0.0), Sending):
        seen.append(step.target.channel.id)
        attempts.failed(DOWN, 0.0)
    assert sorted(seen) == [0, 1, 2]
    assert (attempts.gave_up, attempts.last) == ("no_channel", DOWN)


def test_a_request_is_sent_so_often_and_no_more() -> None:
    attempts = Attempts(router([channel(n) for n in range(9)]), Ask(MODEL), 0.0)
    while isinstance(attempts.next(0.0), Sending):
        attempts.failed(DOWN, 0.0)
    assert (attempts.sent, attempts.gave_up) == (NO_DELAY.attempts, "attempts")


def test_after_the_first_byte_a_break_is_final_yet_counts_against_the_channel() -> None:
    own = router([channel(1), channel(2)])
    for _ in range(5):
        attempts = Attempts(own, Ask(MODEL, pinned=1), 0.0)
        sending(attempts)
        attempts.answered(0.1, 0.0)
        attempts.failed(Failure("reset", first_byte=True), 0.0)
        assert attempts.next(0.0) is None and attempts.gave_up == "first_byte"
    assert own.live.breakers.standing(1, MODEL, 0.0).reason == "failures"


def test_the_callers_own_error_is_neither_retried_nor_held_against_the_channel() -> None:
    own = router([channel(1), channel(2)])
    for _ in range(50):
        attempts = Attempts(own, Ask(MODEL), 0.0)
        sending(attempts)
        attempts.failed(Failure("status", 400), 0.0)
        assert attempts.next(0.0) is None and attempts.gave_up == "not_retryable"
    assert own.live.breakers.changes() == {}


def test_a_refused_key_makes_way_for_the_channels_next_key() -> None:
    own = router([channel(1, keys=(4, 5), priority=1), channel(2)])
    attempts = Attempts(own, Ask(MODEL), 0.0)
    first = sending(attempts).target
    attempts.failed(Failure("status", 401), 0.0)
    second = sending(attempts).target
    assert first.channel.id == second.channel.id == 1 and {first.key, second.key} == {4, 5}
    attempts.failed(Failure("status", 403), 0.0)
    assert sending(attempts).target.channel.id == 2


def test_a_limited_channel_is_waited_for_when_it_is_the_only_one() -> None:
    attempts = Attempts(router([channel(1)]), Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(limited(3.0), 0.0)
    pause = attempts.next(0.0)
    assert isinstance(pause, Pause) and 3.0 <= pause.delay_s < 3.1
    assert isinstance(attempts.next(1.0), Pause)
    sending(attempts, 3.1)


def test_a_pause_that_would_last_too_long_is_refused_with_the_time_to_come_back() -> None:
    attempts = Attempts(router([channel(1)]), Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(limited(20.0), 0.0)
    assert attempts.next(0.0) is None and attempts.gave_up == "no_channel"
    assert attempts.come_back_s(5.0) == 15.0


def test_a_busy_probe_is_waited_for_no_longer_than_the_policy_says() -> None:
    own = router([channel(1)])
    sick = Attempts(own, Ask(MODEL), 0.0)
    sending(sick)
    sick.failed(limited(1.0), 0.0)
    probe = Attempts(own, Ask(MODEL), 1.0)
    sending(probe, 1.0)
    attempts, now = Attempts(own, Ask(MODEL), 1.0), 1.0
    while isinstance(step := attempts.next(now), Pause):
        now += step.delay_s
    assert step is None and attempts.gave_up == "no_channel"
    assert 1.0 + NO_DELAY.wait_s - 1.0 <= now <= 1.0 + NO_DELAY.wait_s


def test_a_probe_that_no_retry_is_left_for_is_given_back() -> None:
    own = router([channel(1), channel(2, priority=1)], budget=RetryBudget(0.0, 0.0, 0.0))
    for _ in range(5):
        broken = Attempts(own, Ask(MODEL, pinned=1), 0.0)
        sending(broken)
        broken.failed(DOWN, 0.0)
    attempts = Attempts(own, Ask(MODEL), 5.0)
    sending(attempts, 5.0)
    attempts.failed(DOWN, 5.0)
    assert attempts.next(5.0) is None and attempts.gave_up == "budget"
    assert own.live.breakers.standing(1, MODEL, 5.0).admits


def test_a_broken_channel_is_not_waited_for() -> None:
    own = router([channel(1)])
    for _ in range(5):
        attempts = Attempts(own, Ask(MODEL), 0.0)
        sending(attempts)
        attempts.failed(DOWN, 0.0)
    late = Attempts(own, Ask(MODEL), 1.0)
    assert late.next(1.0) is None and late.gave_up == "no_channel"
    assert late.come_back_s(1.0) == 4.0


def test_while_another_channel_is_healthy_a_limited_one_is_not_asked_again() -> None:
    own = router([channel(1, priority=1), channel(2)])
    early = Attempts(own, Ask(MODEL), 0.0)
    sending(early)
    attempts = Attempts(own, Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(limited(1.0), 0.0)
    assert sending(attempts, 5.0).target.channel.id == 2


def test_the_budget_ends_retries_but_never_a_first_send() -> None:
    own = router([channel(1), channel(2)], budget=RetryBudget(0.0, 1.0, 0.0))
    ends = []
    for _ in range(3):
        attempts = Attempts(own, Ask(MODEL), 0.0)
        while isinstance(attempts.next(0.0), Sending):
            attempts.failed(DOWN, 0.0)
        ends.append((attempts.sent, attempts.gave_up))
    assert ends == [(2, "no_channel"), (1, "budget"), (1, "budget")]


def test_nothing_is_sent_after_the_deadline() -> None:
    attempts = Attempts(router([channel(1), channel(2)]), Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(DOWN, 61.0)
    assert attempts.next(61.0) is None and attempts.gave_up == "deadline"


def test_fallback_models_come_when_no_channel_of_the_model_can_answer() -> None:
    channels = [channel(1), channel(2, models={"b": "x"}), channel(3, models={"c": "x"})]
    own = router(channels, fallbacks=Fallbacks(failed={MODEL: ("b", "c")}))
    attempts = Attempts(own, Ask(MODEL), 0.0)
    models = []
    while isinstance(step := attempts.next(0.0), Sending):
        models.append(step.target.model)
        attempts.failed(DOWN, 0.0)
    assert models == [MODEL, "b", "c"]


def test_a_prompt_too_long_goes_to_the_model_for_long_ones_on_the_same_channel_too() -> None:
    own = router(
        [channel(1, models={MODEL: "x", "long": "y"}, priority=1), channel(2)],
        fallbacks=Fallbacks(context={MODEL: ("long",)}, failed={MODEL: ("never",)}),
    )
    attempts = Attempts(own, Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(Failure("status", 400, frozenset({"context_length_exceeded"})), 0.0)
    step = sending(attempts)
    assert (step.target.channel.id, step.target.model) == (1, "long")


def test_without_a_fallback_a_prompt_too_long_is_the_callers_error() -> None:
    attempts = Attempts(router([channel(1), channel(2)]), Ask(MODEL), 0.0)
    sending(attempts)
    attempts.failed(Failure("status", 413), 0.0)
    assert attempts.next(0.0) is None and attempts.gave_up == "not_retryable"


def test_a_request_that_breaks_every_server_counts_against_the_first_only() -> None:
    own = router([channel(1), channel(2, priority=-1)])
    for _ in range(8):
        attempts = Attempts(own, Ask(MODEL), 0.0)
        while isinstance(attempts.next(0.0), Sending):
            attempts.failed(Failure("status", 500), 0.0)
    assert not own.live.breakers.standing(1, MODEL, 0.0).admits
    assert own.live.breakers.standing(2, MODEL, 0.0).trips == 0


def test_failing_where_nothing_was_sent_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="nothing was sent"):
        Attempts(router([channel(1)]), Ask(MODEL), 0.0).failed(DOWN, 0.0)


FAILURES = [
    DOWN,
    Failure("timeout"),
    limited(),
    limited(2.0),
    Failure("status", 401),
    Failure("status", 403),
    Failure("status", 500),
    Failure("status", 404),
    Failure("status", 413),
    None,
]


@given(st.lists(st.sampled_from(FAILURES), min_size=1, max_size=80), st.integers(0, 5))
def test_whatever_happens_requests_end_and_loads_and_probes_are_given_back(
    script: list[Failure | None], seed: int
) -> None:
    channels = [channel(1, keys=(1, 2)), channel(2, weight=2), channel(3, models={"b": "x"})]
    state, now, sends, requests = live(), 0.0, 0, 0
    own = Router(
        ChannelTable(channels),
        state,
        RetryBudget(0.2, 3, 0.0),
        numbers(seed),
        fallbacks=Fallbacks(failed={MODEL: ("b",)}, context={MODEL: ("b",)}),
    )
    rest = iter(script)
    for failure in rest:
        attempts, requests = Attempts(own, Ask(MODEL), now), requests + 1
        start = now
        while (step := attempts.next(now)) is not None:
            if isinstance(step, Pause):
                assert step.delay_s > 0
                now += step.delay_s
                continue
            sends += 1
            assert (step.target.channel.id, step.target.model) != (3, MODEL)
            if failure is None:
                attempts.answered(0.1, now)
                break
            attempts.failed(failure, now)
            failure = next(rest, None)
        attempts.close()
        attempts.close()
        assert now - start <= own.policy.deadline_s
        assert attempts.sent <= own.policy.attempts
    assert sends - requests <= 3 + 0.2 * requests + 1e-6
    assert all(state.loads.running(c.id, now) == 0 for c in channels)
    later = now + 4000.0
    assert all(state.breakers.standing(c.id, m, later).admits for c in channels for m in c.models)
