from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.gateway.gateway_for_tests import Gateway

from slipway.gateway import add_token, add_user
from slipway.gateway.feedback.record import MAX_BODY, list_feedback

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello dear world"}]}


def give(gateway: Gateway, body: Any, key: str | None = None) -> httpx.Response:
    with gateway.client(key) as client:
        return client.post("/v1/feedback", json=body)


@pytest.fixture
def request_id(gateway: Gateway) -> str:
    return str(gateway.post(CHAT).headers["x-request-id"])


def test_the_newest_word_of_a_user_stands(gateway: Gateway, request_id: str) -> None:
    first = give(gateway, {"request_id": request_id, "score": -1, "comment": "too short"})
    assert first.status_code == 200
    assert first.json()["score"] == -1
    other_key = add_token(gateway.store, "phone", user="ada")[1]
    for _ in range(2):
        again = {"request_id": request_id, "score": 1, "label": "good"}
        assert give(gateway, again, other_key).status_code == 200
    (row,) = list_feedback(gateway.store)
    assert (row["score"], row["label"], row["comment"]) == (1, "good", None)
    assert (row["user"], row["model"], row["captured"]) == ("ada", "tiny", False)


def test_a_foreign_request_and_an_unknown_one_get_the_same_answer(
    gateway: Gateway, request_id: str
) -> None:
    add_user(gateway.store, "bob")
    bob = add_token(gateway.store, "bobs", user="bob")[1]
    foreign = give(gateway, {"request_id": request_id, "score": 1}, bob)
    unknown = give(gateway, {"request_id": "req_0", "score": 1}, bob)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content
    assert list_feedback(gateway.store) == []
    wrong = give(gateway, {"request_id": request_id, "score": 1}, "sk-wrong")
    assert wrong.status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": 3, "score": 1}, "request_id"),
        ({"request_id": "x"}, None),
        ({"request_id": "x", "score": True}, "score"),
        ({"request_id": "x", "score": "1"}, "score"),
        ({"request_id": "x", "score": 1e9}, "score"),
        ({"request_id": "x", "label": "a" * 65}, "label"),
        ({"request_id": "x", "correction": " "}, "correction"),
        ({"request_id": "x", "rating": 1}, "rating"),
        ([], None),
    ],
)
def test_bad_feedback_is_refused_and_the_field_named(
    gateway: Gateway, body: Any, param: str | None
) -> None:
    answer = give(gateway, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_large_body_is_refused(gateway: Gateway) -> None:
    assert give(gateway, {"request_id": "x", "comment": "a" * MAX_BODY}).status_code == 413
