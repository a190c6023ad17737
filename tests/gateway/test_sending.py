"""Faults of upstreams: who is asked next, what the client is told, what is paid."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.gateway.gateway_for_tests import PRICE, Gateway

from slipway.gateway import (
    ChannelSpec,
    add_channel,
    add_token,
    add_user,
    check_books,
    list_requests,
    list_tokens,
)
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hello dear world"}]}


@pytest.fixture
def second(gateway: Gateway) -> Iterator[FakeUpstream]:
    """A channel of lower priority for the same model."""
    with FakeUpstream() as server:
        spec = ChannelSpec("spare", "slipway", server.url, price=PRICE, priority=-1)
        add_channel(gateway.store, spec)
        yield server


def settled(gateway: Gateway) -> None:
    (token,) = list_tokens(gateway.store)
    assert token.held_micro == 0
    assert token.used_micro == sum(row["cost_micro"] for row in list_requests(gateway.store))
    assert check_books(gateway.store) == []


@pytest.mark.parametrize(
    "fault",
    [
        FakeAnswer(status=500, body=b'{"error": {"message": "boom"}}'),
        FakeAnswer(status=503, body=b"busy"),
        FakeAnswer(status=429, body=b'{"error": {"message": "slow down"}}'),
        FakeAnswer(status=401, body=b'{"error": {"code": "invalid_api_key"}}'),
        FakeAnswer(status=404, body=b'{"error": {"code": "model_not_found"}}'),
    ],
    ids=lambda fault: str(fault.status),
)
def test_a_fault_of_the_channel_is_mended_by_another(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream, fault: FakeAnswer
) -> None:
    upstream.script(fault)
    answer = gateway.post(ASK)
    assert answer.status_code == 200
    assert (len(upstream.seen), len(second.seen)) == (1, 1)
    (row,) = list_requests(gateway.store)
    assert (row["channel"], row["error"]) == ("spare", None)
    settled(gateway)


def test_the_callers_own_fault_goes_to_no_other_channel(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    body = b'{"error": {"message": "bad temperature", "code": "bad_value", "param": "temperature"}}'
    upstream.script(FakeAnswer(status=400, body=body))
    answer = gateway.post(ASK)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "temperature"
    assert second.seen == []
    settled(gateway)


def test_after_the_first_byte_nothing_is_sent_again(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(pieces=("one", " two", " three"), cut_after=2))
    text = gateway.post({**ASK, "stream": True}).text
    assert "one" in text and "upstream_disconnected" in text
    assert second.seen == []
    settled(gateway)


def test_when_all_fail_the_client_hears_the_last_ones_words(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    for server in (upstream, second):
        server.default = FakeAnswer(status=500, body=b'{"error": {"message": "boom"}}')
    answer = gateway.post(ASK)
    assert answer.status_code == 500
    assert "boom" in answer.json()["error"]["message"]
    assert (len(upstream.seen), len(second.seen)) == (1, 1)
    settled(gateway)


def test_a_storm_of_refusals_is_not_made_worse(gateway: Gateway, upstream: FakeUpstream) -> None:
    """One-API's users saw 16,000 requests a minute sent to a channel that answered 429."""
    upstream.default = FakeAnswer(status=429, body=b'{"error": {"message": "slow down"}}')
    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(lambda _: gateway.post(ASK).status_code, range(120)))
    assert set(codes) <= {429, 503}
    assert len(upstream.seen) < 120  # the breaker keeps most of them from going out
    settled(gateway)


def test_a_breaker_opens_and_the_channel_comes_back(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.default = FakeAnswer(status=500, body=b'{"error": {"message": "boom"}}')
    for _ in range(12):
        assert gateway.post(ASK).status_code == 200
    assert len(upstream.seen) < 12  # after some failures it is left alone
    upstream.default = FakeAnswer()
    until = time.monotonic() + 60
    while list_requests(gateway.store)[0]["channel"] != "main":
        assert time.monotonic() < until, "the channel never came back"
        assert gateway.post(ASK).status_code == 200
        time.sleep(0.2)
    settled(gateway)


def test_a_conversation_stays_at_its_channel(gateway: Gateway, upstream: FakeUpstream) -> None:
    with FakeUpstream() as other:
        add_channel(gateway.store, ChannelSpec("twin", "slipway", other.url, price=PRICE))
        system = {"role": "system", "content": "You are the assistant of shop number 7."}
        for turn in range(6):
            ask = {"role": "user", "content": "hello"}
            history = [ask, {"role": "assistant", "content": "hi"}] * turn
            body = {"model": "tiny", "messages": [system, *history, ask]}
            assert gateway.post(body).status_code == 200
        assert {len(upstream.seen), len(other.seen)} == {0, 6}
        for shop in range(40):
            system = {"role": "system", "content": f"You are the assistant of shop {shop}."}
            gateway.post({"model": "tiny", "messages": [system, ask]})
        assert len(upstream.seen) > 5 and len(other.seen) > 5


def test_an_administrator_is_told_where_a_request_would_go_and_why(
    gateway: Gateway, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    add_user(gateway.store, "root", role="admin")
    _, key = add_token(gateway.store, "admin", user="root")
    with gateway.client(key) as client:
        told = client.post("/api/explain", json=ASK).json()
        assert [(c["name"], c["place"]) for c in told["channels"]] == [("main", 1), ("spare", 2)]
        upstream.default = FakeAnswer(status=429, body=b"{}", headers={"Retry-After": "30"})
        assert gateway.post(ASK).status_code == 200
        told = client.post("/api/explain", json=ASK).json()
        assert [(c["name"], c["place"]) for c in told["channels"]] == [("spare", 1), ("main", None)]
        assert client.post("/api/explain", json={"model": "no"}).json()["model"] is None
        assert client.post("/api/explain", content=b"{").status_code == 400
    with gateway.client() as client:
        assert client.post("/api/explain", json=ASK).json()["error"]["code"] == "admins_only"
    with gateway.client("sk-wrong") as client:
        assert client.post("/api/explain", json=ASK).status_code == 401
