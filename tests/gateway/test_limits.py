"""Rates, places and budgets: the counting itself, and what a caller gets."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete
from tests.gateway.gateway_for_tests import Gateway

from slipway.core.errors import NotFoundError, UsageError
from slipway.gateway import Store, add_token, add_user, check_books, list_requests
from slipway.gateway.clock import now_ms
from slipway.gateway.limits import Gate, Limit, list_limits, remove_limit, set_limit
from slipway.gateway.limits.rules import name_of
from slipway.gateway.limits.window import WINDOW_S, Window
from slipway.gateway.problems import ApiError
from slipway.gateway.tables import spending
from slipway.testing.fake_upstream import FakeUpstream

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hello dear world"}]}


class Clock:
    """FakeClock: seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


arrivals = st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 6)), max_size=40)


@given(arrivals=arrivals, limit=st.integers(1, 20))
def test_no_minute_ever_holds_more_than_the_limit(
    arrivals: list[tuple[float, int]], limit: int
) -> None:
    window, now = Window(), 0.0
    passed: list[tuple[float, int]] = []
    for pause, amount in arrivals:
        now += pause
        if window.wait_s(now, amount, limit) == 0:
            window.add(now, amount)
            passed.append((now, amount))
    for start, first in passed:
        inside = sum(a for at, a in passed if start <= at < start + WINDOW_S)
        assert inside <= max(limit, first)


@given(arrivals=arrivals, limit=st.integers(1, 20), amount=st.integers(1, 6))
def test_after_the_wait_that_was_told_the_amount_passes(
    arrivals: list[tuple[float, int]], limit: int, amount: int
) -> None:
    window, now = Window(), 0.0
    for pause, more in arrivals:
        now += pause
        window.forget(now)
        window.add(now, more)
    wait = window.wait_s(now, amount, limit)
    assert window.wait_s(now + wait + 0.001, amount, limit) == 0


def test_what_a_request_really_used_replaces_what_was_foreseen() -> None:
    window = Window()
    second = window.add(5.0, 100)
    window.correct(second, -70)
    assert window.total == 30
    window.correct(second, -500)
    assert window.total == 0
    window.forget(5.0 + 61)
    window.correct(second, 10)  # too late: it does not count any more
    assert window.total == 0


TOKEN = ("token", "1")


def test_a_refused_request_counts_nowhere() -> None:
    clock = Clock()
    gate = Gate(clock)
    rules = [(TOKEN, Limit(rpm=5, tpm=10)), (("user", "1"), Limit(rpm=1))]

    async def run() -> None:
        first = await gate.enter(rules, TOKEN, 4, 0)
        assert first.headers["x-ratelimit-remaining-requests"] == "0"  # the user's is tighter
        assert first.headers["x-ratelimit-remaining-tokens"] == "6"
        with pytest.raises(ApiError) as caught:
            await gate.enter(rules, TOKEN, 4, 0)
        assert caught.value.status == 429
        assert "user" in caught.value.message
        assert int(caught.value.headers["Retry-After"]) >= 60
        gate.leave(first, 2)
        gate.leave(first, 2)  # twice is once
        clock.now += 62
        second = await gate.enter(rules, TOKEN, 10, 0)
        assert second.headers["x-ratelimit-remaining-tokens"] == "0"

    asyncio.run(run())


def test_places_go_to_the_token_with_the_fewest_running() -> None:
    gate = Gate(Clock())
    shared = (("group", "g"), Limit(concurrency=2))
    a, b = ("token", "a"), ("token", "b")

    async def run() -> list[str]:
        order: list[str] = []

        async def ask(token: tuple[str, str], name: str) -> None:
            ticket = await gate.enter([shared, (token, Limit(rpm=100))], token, 0, 5)
            order.append(name)
            await asyncio.sleep(0.01)
            gate.leave(ticket, 0)

        tasks = [asyncio.create_task(ask(a, f"a{number}")) for number in range(5)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(ask(b, "b")))
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(run())
    assert order.index("b") <= 3  # before a's backlog
    assert gate.waiting == 0


def test_who_waits_too_long_or_leaves_takes_no_place() -> None:
    gate = Gate(Clock())
    rules = [(TOKEN, Limit(concurrency=1))]

    async def run() -> None:
        first = await gate.enter(rules, TOKEN, 0, 1)
        with pytest.raises(ApiError) as caught:
            await gate.enter(rules, TOKEN, 0, 0.02)
        assert caught.value.code == "concurrency_limit_exceeded"
        leaving = asyncio.create_task(gate.enter(rules, TOKEN, 0, 5))
        await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        gate.leave(first, 0)
        gate.leave(await gate.enter(rules, TOKEN, 0, 0), 0)

    asyncio.run(run())
    assert gate.waiting == 0


def test_tokens_of_a_minute_are_counted_by_what_was_used(gateway: Gateway) -> None:
    set_limit(gateway.store, "token", "laptop", Limit(tpm=60))
    first = gateway.post({**ASK, "max_tokens": 30})
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "60"
    used = list_requests(gateway.store)[0]
    spent = used["prompt_tokens"] + used["completion_tokens"]
    assert spent < 30
    second = gateway.post({**ASK, "max_tokens": 60 - spent - 10})
    assert second.status_code == 200, second.text
    third = gateway.post({**ASK, "max_tokens": 58})
    assert third.status_code == 429
    assert "tokens per minute" in third.json()["error"]["message"]
    assert "retry-after" in third.headers


@pytest.mark.parametrize("scope", ["token", "user", "group", "model"])
def test_a_budget_holds_at_every_level(gateway: Gateway, scope: Any) -> None:
    name = {"token": "laptop", "user": "ada", "group": "default", "model": "tiny"}[scope]
    cost = _cost(gateway)
    # the first is counted, though it came before there was a budget
    set_limit(gateway.store, scope, name, Limit(day_micro=3 * cost + 150))
    codes = [gateway.post({**ASK, "max_tokens": 20}).status_code for _ in range(12)]
    assert 200 in codes and codes[-1] == 403
    refused = gateway.post({**ASK, "max_tokens": 20}).json()["error"]
    assert (
        refused["code"] == "insufficient_quota" and name_of("day", now_ms()) in refused["message"]
    )
    (row,) = list_limits(gateway.store)
    (used,) = row.used_micro.values()
    assert used == sum(r["cost_micro"] for r in list_requests(gateway.store))
    assert used <= 3 * cost + 150
    assert set(row.held_micro.values()) == {0}
    assert check_books(gateway.store) == []
    with gateway.store.write() as db:  # the next day
        db.execute(delete(spending))
    assert gateway.post({**ASK, "max_tokens": 20}).status_code == 200


def _cost(gateway: Gateway) -> int:
    assert gateway.post({**ASK, "max_tokens": 20}).status_code == 200
    return int(list_requests(gateway.store)[0]["cost_micro"])


def test_parallel_requests_do_not_pass_a_budget_together(gateway: Gateway) -> None:
    cost = _cost(gateway)
    budget = 10 * cost + 100
    set_limit(gateway.store, "user", "ada", Limit(month_micro=budget))
    with ThreadPoolExecutor(16) as pool:
        asks = [{**ASK, "max_tokens": 20}] * 64
        codes = list(pool.map(lambda body: gateway.post(body).status_code, asks))
    assert set(codes) <= {200, 403} and 200 in codes and 403 in codes
    (row,) = list_limits(gateway.store)
    assert sum(row.used_micro.values()) <= budget
    assert check_books(gateway.store) == []


def test_places_are_waited_for_and_freed(gateway: Gateway, upstream: FakeUpstream) -> None:
    set_limit(gateway.store, "model", "tiny", Limit(concurrency=2))
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: gateway.post(ASK).status_code, range(24)))
    assert codes == [200] * 24


def test_a_key_works_only_from_its_networks(gateway: Gateway, store: Store) -> None:
    _, inside = add_token(store, "inside", user="ada", networks=["127.0.0.0/8"])
    _, outside = add_token(store, "outside", user="ada", networks=["10.1.0.0/16", "::1"])
    assert gateway.post(ASK, inside).status_code == 200
    refused = gateway.post(ASK, outside)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "network_not_allowed"
    with pytest.raises(UsageError):
        add_token(store, "bad", user="ada", networks=["10.0.0.0/99"])


def test_limits_are_replaced_listed_and_removed(store: Store) -> None:
    add_user(store, "ada", group="team")
    set_limit(store, "user", "ada", Limit(rpm=5))
    set_limit(store, "user", "ada", Limit(tpm=7, total_micro=10))
    (row,) = list_limits(store)
    assert (row.name, row.limit) == ("ada", Limit(tpm=7, total_micro=10))
    assert row.as_json()["used_micro"] == {"total": 0}
    remove_limit(store, "user", "ada")
    assert list_limits(store) == []
    with pytest.raises(NotFoundError):
        remove_limit(store, "user", "ada")
    with pytest.raises(NotFoundError):
        set_limit(store, "token", "nobody", Limit(rpm=1))
    for bad in (Limit(), Limit(rpm=0), Limit(day_micro=-1)):
        with pytest.raises(UsageError):
            set_limit(store, "user", "ada", bad)
