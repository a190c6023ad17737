"""Several gateway processes on one database, many clients, and processes killed at any time."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select
from tests.gateway.gateway_for_tests import PRICE
from tests.gateway.test_killed import ask, start

from slipway.core.process import free_port
from slipway.gateway import (
    ChannelSpec,
    Limit,
    Store,
    add_channel,
    add_token,
    add_user,
    check_books,
    list_limits,
    list_requests,
    list_tokens,
    set_limit,
)
from slipway.gateway.tables import entries, holds
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 5}
COST = 6  # of one request of `ask`: two prompt tokens, two generated ones


def ready(store: Store, upstream: FakeUpstream, budget: int | None) -> str:
    add_user(store, "ada")
    _, key = add_token(store, "laptop", user="ada", budget_micro=budget)
    add_channel(store, ChannelSpec("main", "slipway", upstream.url, price=PRICE))
    return key


def paid(store: Store) -> int:
    """What the ledger says that channels earned, which is what tokens paid."""
    with store.read() as db:
        where = entries.c.account.like("channel:%")
        return int(db.execute(select(func.sum(entries.c.amount_micro)).where(where)).scalar() or 0)


def test_three_processes_spend_one_budget_exactly(store: Store, upstream: FakeUpstream) -> None:
    budget = 100 * COST + 50
    key = ready(store, upstream, budget)
    set_limit(store, "user", "ada", Limit(day_micro=90 * COST))
    ports = [free_port() for _ in range(3)]
    gateways = [start(port) for port in ports]
    try:
        with ThreadPoolExecutor(64) as pool:
            codes = Counter(pool.map(lambda n: ask(ports[n % 3], key, 60), range(300)))
    finally:
        for gateway in gateways:
            gateway.terminate()
        for gateway in gateways:
            gateway.wait()
    assert set(codes) == {200, 403}
    (token,) = list_tokens(store)
    assert token.used_micro == codes[200] * COST == paid(store)
    assert token.held_micro == 0
    (limit,) = list_limits(store)
    assert sum(limit.used_micro.values()) == token.used_micro <= 90 * COST
    # nothing was refused that the budget would have covered with nobody else running
    assert token.used_micro > 90 * COST - 150
    assert check_books(store) == []


@pytest.mark.slow
def test_fifty_kills_lose_no_request_and_count_none_twice(
    store: Store, upstream: FakeUpstream
) -> None:
    """64 clients against two processes; at random moments one is killed and comes again."""
    key = ready(store, upstream, None)
    set_limit(store, "model", "tiny", Limit(total_micro=10**12))
    chance = random.Random(7)
    upstream.default = FakeAnswer(delay_s=0.05)
    ports = [free_port(), free_port()]
    gateways = [start(port) for port in ports]
    stopping, answered, failed = threading.Event(), Counter[int](), Counter[str]()

    def client(number: int) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{ports[number % 2]}/v1/chat/completions"
        with httpx.Client(headers=headers, timeout=30, trust_env=False, verify=False) as http:
            while not stopping.is_set():
                try:
                    answered[http.post(url, json=BODY).status_code] += 1
                except httpx.HTTPError as error:
                    failed[type(error).__name__] += 1
                time.sleep(0.1)  # what the machine has is for the gateways

    clients = [threading.Thread(target=client, args=(n,)) for n in range(64)]
    for thread in clients:
        thread.start()
    try:
        for _ in range(50):
            time.sleep(chance.uniform(0.05, 0.6))
            which = chance.randrange(2)
            gateways[which].send_signal(signal.SIGKILL)
            gateways[which].wait()
            gateways[which] = start(ports[which])
    finally:
        stopping.set()
        for thread in clients:
            thread.join()
        for gateway in gateways:
            gateway.terminate()
            gateway.wait()
    assert set(answered) == {200}, answered
    last = start(ports[0])  # books what the last of the killed left
    last.terminate()
    last.wait()
    (token,) = list_tokens(store)
    assert token.held_micro == 0
    assert token.used_micro == paid(store)
    query = select(holds.c.state, func.count()).group_by(holds.c.state)
    with store.read() as db:
        states = Counter({state: count for state, count in db.execute(query)})
    assert states["held"] == 0
    logged = Counter(row["error"] for row in list_requests(store, limit=10**6))
    assert sum(logged.values()) == states["settled"] + states["released"]
    # every answer that a client has was settled; a kill may come between the books and the client
    assert answered[200] <= states["settled"] <= answered[200] + sum(failed.values())
    assert check_books(store) == []
