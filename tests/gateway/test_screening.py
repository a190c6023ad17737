"""The content filter at work in the gateway: requests, whole answers, streams."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.gateway_for_tests import PRICE, Gateway

from slipway.gateway import (
    ChannelSpec,
    GatewayConfig,
    Store,
    add_channel,
    add_token,
    add_user,
    build_app,
    check_books,
    filter_of,
    list_requests,
)
from slipway.gateway.filter import ContentFilter, Rule, parse_words
from slipway.gateway.screening import StreamScreen
from slipway.testing.asgi_server import AsgiServer
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
def gateway(store: Store, upstream: FakeUpstream, tmp_path: Path) -> Iterator[Gateway]:
    (tmp_path / "block").write_text("# house rules\nsecret plan\n代开发票\n", "utf-8")
    (tmp_path / "audit").write_text("lamp\n", "utf-8")
    add_user(store, "ada")
    _, key = add_token(store, "laptop", user="ada")
    add_channel(store, ChannelSpec("main", "slipway", upstream.url, price=PRICE))
    config = GatewayConfig(filters=filter_of(tmp_path / "block", tmp_path / "audit"))
    with AsgiServer(build_app(store, config)) as server:
        yield Gateway(server.url, key, store)


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def said(chunks: list[dict[str, Any]]) -> str:
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("text", ["the SECRET PLAN", "代開發票", "ｓｅｃｒｅｔ plan"])
def test_a_refused_request_goes_nowhere_and_costs_nothing(
    gateway: Gateway, upstream: FakeUpstream, text: str
) -> None:
    answer = gateway.post(ask(text))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "content_policy_violation"
    assert "plan" not in error["message"] and error["param"]
    assert upstream.seen == [] and list_requests(gateway.store) == []


def test_a_noted_request_goes_on(
    gateway: Gateway, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="slipway.gateway"):
        assert gateway.post(ask("my lamp is broken")).status_code == 200
    assert any("filter request" in record.message for record in caplog.records)
    with gateway.client() as client:
        metrics = client.get("/metrics").text
    assert 'filter_hits_total{mode="audit",rule="audit",where="request"} 1.0' in metrics


def test_a_refused_answer_has_no_text_and_is_paid(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(pieces=("here is ", "the secret plan")))
    body = gateway.post(ask("tell me")).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] == ""
    (row,) = list_requests(gateway.store)
    assert row["error"] == "content_policy_violation" and row["cost_micro"] > 0


@pytest.mark.parametrize("pieces", [("a ", "secret", " plan", " b"), ("a sec", "ret pl", "an b")])
def test_a_refused_stream_ends_before_the_word(
    gateway: Gateway, upstream: FakeUpstream, pieces: tuple[str, ...]
) -> None:
    upstream.script(FakeAnswer(pieces=(*pieces, *(["more"] * 50)), piece_delay_s=0.01))
    chunks = events(gateway.post(ask("tell me", stream=True)).text)
    assert said(chunks) == "a "
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    (row,) = list_requests(gateway.store)
    assert row["error"] == "content_policy_violation"
    assert 0 < row["completion_tokens"] < 50  # the upstream was stopped
    assert check_books(gateway.store) == []


def test_a_stream_without_words_reads_as_without_a_filter(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    pieces = ("a sec", "ret is no", " secret", " pla", "ce")
    upstream.script(FakeAnswer(pieces=pieces))
    chunks = events(gateway.post(ask("tell me", stream=True)).text)
    assert said(chunks) == "".join(pieces)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


WORDS = ContentFilter([Rule("block", parse_words("abab\nbcb", "test"), mode="block")])


def chunk(text: str, reason: str | None = None) -> bytes:
    delta = {"content": text} if text else {}
    value = {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@given(texts=st.lists(st.text("abcd ", max_size=5), max_size=12))
def test_what_comes_out_is_what_came_in_until_a_word(texts: list[str]) -> None:
    screen = StreamScreen(WORDS.stream())
    events_in = [chunk(text) for text in texts] + [chunk("", "stop"), b"data: [DONE]\n\n"]
    out = b"".join(screen.feed(event) for event in events_in).decode()
    whole = "".join(texts)
    found = min((at for word in ("abab", "bcb") if (at := whole.find(word)) >= 0), default=None)
    assert screen.blocked == (found is not None)
    text = said(events(out))
    if found is None:
        assert text == whole
    else:
        assert whole[: found + 4].startswith(text) and len(text) <= found


def test_what_is_held_back_comes_even_when_the_answer_does_not_say_that_it_ends() -> None:
    screen = StreamScreen(WORDS.stream())
    out = screen.feed(chunk("x aba")) + screen.feed(b"data: [DONE]\n\n")
    assert said(events(out.decode())) == "x aba"


def test_events_in_which_nothing_changes_pass_byte_for_byte() -> None:
    screen = StreamScreen(WORDS.stream())
    odd = b': comment\r\n\r\ndata:{"choices":[{"index":0,"delta":{"content":"xy "}}],"new":1}\n\n'
    assert screen.feed(odd) == odd
