from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from slipway.gateway import Store, Token, add_token, add_user, check_books, list_requests
from slipway.gateway import list_tokens as tokens_of
from slipway.gateway.ledger import recover, release, reserve, settle
from slipway.gateway.problems import ApiError


@pytest.fixture
def token(store: Store) -> Token:
    add_user(store, "ada")
    with store.write() as db:
        db.exec_driver_sql(
            "INSERT INTO channels (id, name, kind, base_url, reach, models, priority, weight,"
            " enabled, created_at) VALUES (1, 'c', 'slipway', 'http://x', 'loopback', '{}', 0, 1,"
            " 1, 0)"
        )
    return add_token(store, "t", user="ada", budget_micro=1000)[0]


def hold(store: Store, token: Token, request_id: str, amount: int) -> None:
    with store.write() as db:
        reserve(db, request_id, token, amount, model="m", endpoint="/v1/chat/completions")


def sums(store: Store) -> tuple[int, int]:
    row = tokens_of(store)[0]
    return row.used_micro, row.held_micro


def test_settling_charges_the_cost_and_gives_the_rest_back(store: Store, token: Token) -> None:
    hold(store, token, "r1", 300)
    assert sums(store) == (0, 300)
    with store.write() as db:
        assert settle(db, "r1", 120, channel_id=1)
    assert sums(store) == (120, 0)
    assert check_books(store) == []


def test_releasing_charges_nothing(store: Store, token: Token) -> None:
    hold(store, token, "r1", 300)
    with store.write() as db:
        assert release(db, "r1")
    assert sums(store) == (0, 0)
    assert check_books(store) == []


def test_an_outcome_counts_once(store: Store, token: Token) -> None:
    hold(store, token, "r1", 300)
    with store.write() as db:
        assert settle(db, "r1", 120, channel_id=1)
        assert not settle(db, "r1", 120, channel_id=1)
        assert not release(db, "r1")
        assert not settle(db, "never-reserved", 5, channel_id=1)
    assert sums(store) == (120, 0)
    assert check_books(store) == []


def test_a_cost_above_the_reserve_is_charged_in_full(store: Store, token: Token) -> None:
    hold(store, token, "r1", 10)
    with store.write() as db:
        settle(db, "r1", 25, channel_id=1)
    assert sums(store) == (25, 0)
    assert check_books(store) == []


def test_the_budget_is_never_reserved_twice(store: Store, token: Token) -> None:
    def attempt(number: int) -> bool:
        try:
            hold(store, token, f"r{number}", 100)
        except ApiError as error:
            assert (error.status, error.code) == (403, "insufficient_quota")
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(attempt, range(40)))
    assert won == 10
    assert sums(store) == (0, 1000)
    assert check_books(store) == []


def test_without_a_budget_everything_is_still_metered(store: Store, token: Token) -> None:
    free, _ = add_token(store, "free", user="ada")
    hold(store, free, "r1", 10**12)
    with store.write() as db:
        settle(db, "r1", 10**11, channel_id=1)
    assert [t.used_micro for t in tokens_of(store) if t.name == "free"] == [10**11]


def test_broken_books_are_noticed(store: Store, token: Token) -> None:
    hold(store, token, "r1", 300)
    with store.write() as db:
        db.exec_driver_sql("UPDATE tokens SET used_micro = 5")
    assert check_books(store) == ["token 1: used 5 held 300, by its entries 0 and 300"]
    with store.write() as db:
        db.exec_driver_sql("UPDATE entries SET amount_micro = 299 WHERE amount_micro = 300")
    assert any("r1 reserve: entries add up to -1" in line for line in check_books(store))


def test_holds_of_dead_processes_are_released_once_and_live_ones_kept(
    store: Store, token: Token
) -> None:
    code = (
        "from slipway.gateway import open_store, list_tokens\n"
        "from slipway.gateway.ledger import reserve\n"
        "store = open_store()\n"
        "token = list_tokens(store)[0]\n"
        "with store.write() as db:\n"
        "    reserve(db, 'lost', token, 400, model='m', endpoint='/v1/embeddings')\n"
        "import os; os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    hold(store, token, "mine", 100)
    assert sums(store) == (0, 500)
    assert recover(store) == 1
    assert recover(store) == 0
    assert sums(store) == (0, 100)
    assert check_books(store) == []
    row = list_requests(store)[0]
    assert (row["request_id"], row["error"], row["cost_micro"]) == ("lost", "gateway_died", 0)
