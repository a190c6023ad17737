from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.routing.retry import (
    Failure,
    FailureKind,
    RetryBudget,
    RetryPolicy,
    judge,
    retry_after,
)


def status(number: int, *codes: str, **more: object) -> Failure:
    return Failure("status", number, frozenset(codes), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failure", "outcome", "remedy"),
    [
        (Failure("connect"), "failure", "other_channel"),
        (Failure("reset"), "failure", "other_channel"),
        (Failure("timeout"), "failure", "other_channel"),
        (Failure("bad_answer"), "failure", "other_channel"),
        (Failure("client_left"), "neutral", "none"),
        (status(302), "failure", "other_channel"),
        (status(400), "neutral", "none"),
        (status(400, "context_length_exceeded"), "neutral", "fallback_model"),
        (status(400, "content_policy_violation"), "neutral", "fallback_model"),
        (status(401), "key_refused", "other_key"),
        (status(402), "key_refused", "other_key"),
        (status(403), "key_suspect", "other_key"),
        (status(404), "neutral", "other_channel"),
        (status(404, "model_not_found"), "failure", "other_channel"),
        (status(422), "neutral", "none"),
        (status(429), "rate_limited", "other_channel"),
        (status(429, "insufficient_quota"), "key_refused", "other_key"),
        (status(500), "failure", "other_channel"),
        (status(501), "neutral", "other_channel"),
        (status(503), "failure", "other_channel"),
        (status(503, retry_after_s=3.0), "rate_limited", "other_channel"),
        (status(529), "rate_limited", "other_channel"),
    ],
)
def test_the_table_of_failures(failure: Failure, outcome: str, remedy: str) -> None:
    verdict = judge(failure)
    assert (verdict.outcome, verdict.remedy) == (outcome, remedy)


@given(
    st.sampled_from(["connect", "reset", "timeout", "bad_answer", "status", "client_left"]),
    st.integers(300, 599),
    st.sets(st.sampled_from(["context_length_exceeded", "invalid_api_key", "x"])),
)
def test_nothing_is_sent_again_after_the_first_byte(
    kind: FailureKind, number: int, codes: set[str]
) -> None:
    assert judge(Failure(kind, number, frozenset(codes), first_byte=True)).remedy == "none"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 1970 00:01:10 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:01:10 -0000", 10.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, 60.0) == seconds


@given(
    st.lists(st.one_of(st.just("request"), st.just("retry"), st.floats(0.0, 50.0)), max_size=300),
    st.floats(0.0, 1.0),
    st.integers(0, 5),
)
def test_retries_never_exceed_their_share_of_the_requests(
    steps: list[str | float], share: float, reserve: int
) -> None:
    budget = RetryBudget(share, reserve, per_s=0.1)
    now, requests, retries = 0.0, 0, 0
    for step in steps:
        if isinstance(step, float):
            now += step
        elif step == "request":
            requests += 1
            budget.request()
        else:
            retries += budget.take(now)
        assert retries <= reserve + share * requests + 0.1 * now + 1e-6


def test_a_budget_pays_what_was_earned_and_refills_slowly_by_itself() -> None:
    budget = RetryBudget(share=0.2, reserve=2, per_s=0.1)
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    for _ in range(6):
        budget.request()
    assert [budget.take(0.0) for _ in range(2)] == [True, False]
    assert budget.take(9.0) and not budget.take(9.0)
    assert [budget.take(1000.0) for _ in range(3)] == [True, True, False]


def test_what_was_earned_above_the_reserve_is_kept_up_to_a_bound() -> None:
    budget = RetryBudget(share=0.5, reserve=2, per_s=0.1, most=5)
    for _ in range(100):
        budget.request()
    assert [budget.take(n * 0.01) for n in range(6)] == [True] * 5 + [False]


@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_full_jitter_spreads_over_the_whole_wait_and_the_wait_has_a_cap(
    retry: int, draw: float
) -> None:
    policy = RetryPolicy(base_s=0.1, cap_s=2.0)
    most = min(2.0, 0.1 * 2 ** (retry - 1))
    assert policy.delay_s(retry, lambda: draw) == pytest.approx(draw * most)
