from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.gateway.gateway_for_tests import Gateway

from slipway.core.errors import UsageError
from slipway.gateway import add_token, add_user, list_tokens
from slipway.gateway.clock import now_ms
from slipway.gateway.feedback.answer import read_answer
from slipway.gateway.feedback.consent import Consent
from slipway.gateway.feedback.keep import DAY_MS, forget_user, purge_expired, save_capture
from slipway.gateway.store import Store
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

PIECES = ("Open ", "the order, ", "choose «退货».", "\n\ndata: x")


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def chat(text: str = "How do I return a lamp?", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def captured(store: Store) -> dict[str, tuple[Any, Any]]:
    """Prompt and answer by request id."""
    with store.read() as db:
        rows = db.exec_driver_sql("SELECT request_id, prompt, answer FROM captures").all()
    return {row[0]: (json.loads(row[1]), json.loads(row[2])) for row in rows}


@pytest.fixture
def consenting(gateway: Gateway) -> str:
    """The key of a token whose requests are all kept."""
    return add_token(gateway.store, "open", user="ada", capture=Consent())[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_capture_is_the_prompt_and_the_text_that_the_client_got(
    gateway: Gateway, upstream: FakeUpstream, consenting: str, stream: bool
) -> None:
    upstream.script(FakeAnswer(pieces=PIECES))
    answer = gateway.post(chat(stream=stream), consenting)
    assert answer.status_code == 200
    until(lambda: len(captured(gateway.store)) == 1)
    prompt, said = captured(gateway.store)[answer.headers["x-request-id"]]
    assert prompt == {"messages": chat()["messages"]}
    assert said == {"role": "assistant", "content": "".join(PIECES)}


def test_nothing_is_kept_without_consent_or_against_the_requests_wish(
    gateway: Gateway, consenting: str
) -> None:
    assert gateway.post(chat("no consent")).status_code == 200
    no = {"x-slipway-capture": "No"}
    assert gateway.post(chat("not this"), consenting, headers=no).status_code == 200
    kept = gateway.post(chat("this"), consenting).headers["x-request-id"]
    # captures are written in order, so the others would be there by now
    until(lambda: bool(captured(gateway.store)))
    assert list(captured(gateway.store)) == [kept]
    assert b"no consent" not in database_bytes(gateway.store)


def test_failed_and_oversized_answers_are_not_kept(
    gateway: Gateway, upstream: FakeUpstream, consenting: str
) -> None:
    small = add_token(gateway.store, "small", user="ada", capture=Consent(max_bytes=600))[1]
    upstream.script(FakeAnswer(status=400, body=b'{"error": {"message": "no"}}'))
    assert gateway.post(chat(), consenting).status_code == 400
    upstream.script(FakeAnswer(pieces=("word " * 400,)))
    assert gateway.post(chat(), small).status_code == 200
    assert gateway.post(chat("long " * 200), small).status_code == 200
    last = gateway.post(chat("short"), consenting).headers["x-request-id"]
    until(lambda: bool(captured(gateway.store)))
    assert list(captured(gateway.store)) == [last]


def test_an_answer_that_broke_off_is_not_kept(
    gateway: Gateway, upstream: FakeUpstream, consenting: str
) -> None:
    upstream.script(FakeAnswer(pieces=PIECES, cut_after=2))
    broken = gateway.post(chat(stream=True), consenting)
    assert PIECES[0] in broken.text and "upstream_disconnected" in broken.text
    last = gateway.post(chat("whole"), consenting).headers["x-request-id"]
    until(lambda: bool(captured(gateway.store)))
    assert list(captured(gateway.store)) == [last]


def database_bytes(store: Store) -> bytes:
    return b"".join(path.read_bytes() for path in store.path.parent.glob("gateway.db*"))


def test_personal_data_never_reaches_the_disk(
    gateway: Gateway, upstream: FakeUpstream, consenting: str
) -> None:
    secrets = ("13812345678", "mei.lin@mail.cn", "sk-abcdefghijklmnop1234567890")
    # the number comes in pieces: masking looks at the whole text
    upstream.script(
        FakeAnswer(
            pieces=(
                "call 138",
                "1234",
                "5678 now",
            )
        )
    )
    asked = chat(f"write to {secrets[1]} with {secrets[2]}", stream=True)
    request_id = gateway.post(asked, consenting).headers["x-request-id"]
    until(lambda: bool(captured(gateway.store)))
    with gateway.client(consenting) as client:
        said = {"request_id": request_id, "correction": f"ring {secrets[0]}", "comment": secrets[1]}
        assert client.post("/v1/feedback", json=said).status_code == 200
    prompt, answer = captured(gateway.store)[request_id]
    assert answer["content"] == "call [MOBILE] now"
    assert "[EMAIL]" in prompt["messages"][0]["content"]
    on_disk = database_bytes(gateway.store)
    assert b"[MOBILE]" in on_disk
    for secret in secrets:
        assert secret.encode() not in on_disk


def test_tool_calls_in_pieces_are_put_together() -> None:
    def event(delta: dict[str, Any], **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, **more}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\r\n\r\n"

    function = {"name": "find", "arguments": '{"q":'}
    data = (
        event({"tool_calls": [{"index": 0, "id": "c1", "function": function}]})
        + event({"tool_calls": [{"index": 0, "function": {"arguments": '"lamp"}'}}]})
        + event({}, finish_reason="tool_calls")
        + b"data: [DONE]\n\n"
    )
    answer = read_answer(data)
    assert answer is not None and answer.finish == "tool_calls"
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"q":"lamp"}'},
    }
    assert answer.turn() == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert read_answer(b"garbage") is None


def keep(store: Store, request_id: str, user: int, at_ms: int, days: int = 1) -> None:
    body = b'{"choices": [{"message": {"content": "unforgettable-%s"}}]}' % request_id.encode()
    assert save_capture(
        store,
        request_id=request_id,
        user_id=user,
        model="tiny",
        asked=chat(),
        answer=body,
        created_at=at_ms,
        days=days,
    )


def test_captures_are_removed_when_their_time_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.gateway.feedback.keep._CHUNK", 2)
    user = add_user(store, "ada").id
    now = now_ms()
    for number in range(5):
        keep(store, f"old{number}", user, now - DAY_MS)
    keep(store, "young", user, now - DAY_MS + 60_000)
    keep(store, "longer", user, now - DAY_MS, days=2)
    assert purge_expired(store, now) == 5
    assert sorted(captured(store)) == ["longer", "young"]
    assert purge_expired(store, now) == 0
    assert forget_user(store, user) == {"captures": 2, "feedback": 0}
    assert captured(store) == {}


def test_consent_is_off_unless_given_and_has_bounds(store: Store) -> None:
    add_user(store, "ada")
    add_token(store, "a", user="ada")
    add_token(store, "b", user="ada", capture=Consent(500, 7, 1000))
    assert [token.capture for token in list_tokens(store)] == [None, Consent(500, 7, 1000)]
    for wrong in ({"share_bp": 0}, {"share_bp": 10_001}, {"days": 0}, {"max_bytes": 0}):
        with pytest.raises(UsageError):
            Consent(**wrong)


def feedback(gateway: Gateway, body: Any, key: str | None = None) -> httpx.Response:
    with gateway.client(key) as client:
        return client.post("/v1/feedback", json=body)


def test_a_sampling_share_keeps_about_that_many(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = iter([2499, 2500, 9999, 0])
    monkeypatch.setattr(
        "slipway.gateway.feedback.capture.random.randrange", lambda _most: next(draws)
    )
    key = add_token(gateway.store, "some", user="ada", capture=Consent(share_bp=2500))[1]
    ids = [gateway.post(chat(), key).headers["x-request-id"] for _ in range(4)]
    until(lambda: len(captured(gateway.store)) == 2)
    assert set(captured(gateway.store)) == {ids[0], ids[3]}
