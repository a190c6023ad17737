from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest
from tests.gateway.gateway_for_tests import BUSY_MS, MAX_BODY, PRICE, Gateway

from slipway.core.process import free_port
from slipway.gateway import (
    ChannelSpec,
    add_channel,
    add_token,
    check_books,
    list_requests,
    list_tokens,
    revoke_token,
)
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream


def chat(text: str = "hello dear world", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def last(gateway: Gateway) -> dict[str, Any]:
    return list_requests(gateway.store, 1)[0]


def outcome(gateway: Gateway, request_id: str) -> str:
    with gateway.store.read() as db:
        query = "SELECT state FROM holds WHERE request_id = ?"
        return str(db.exec_driver_sql(query, (request_id,)).scalar_one())


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_an_answer_comes_through_unchanged_and_is_booked(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    through = gateway.post(chat(max_tokens=5))
    direct = httpx.post(f"{upstream.url}/v1/chat/completions", json=chat(), trust_env=False)
    assert through.status_code == 200
    assert through.content == direct.content
    row = last(gateway)
    assert row["request_id"] == through.headers["x-request-id"]
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_micro"]) == (3, 3, 9)
    assert (row["user"], row["token"], row["channel"]) == ("ada", "laptop", "main")
    assert row["priced"] and not row["estimated"] and not row["stream"]
    assert outcome(gateway, row["request_id"]) == "settled"
    assert list_tokens(gateway.store)[0].used_micro == 9
    assert check_books(gateway.store) == []


def test_unknown_fields_reach_the_upstream_as_the_same_bytes(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    body = (
        b'{"model":"tiny", "x_new": {"deep": [1e3, 1.0, null]},"messages":[{"content":"\\u4f60"}]}'
    )
    with gateway.client() as client:
        client.post("/v1/chat/completions", content=body)
    assert upstream.seen[-1].raw == body


def test_only_the_models_name_is_mapped(gateway: Gateway, upstream: FakeUpstream) -> None:
    spec = ChannelSpec("two", "slipway", upstream.url, models=("nice-name=tiny",))
    add_channel(gateway.store, spec)
    body = chat(seed=7, stop=["x"], tools=[{"type": "function"}], extra={"a": 1.5}) | {
        "model": "nice-name"
    }
    assert gateway.post(body).status_code == 200
    assert upstream.seen[-1].body == body | {"model": "tiny"}
    assert last(gateway)["model"] == "nice-name"


def test_the_clients_key_stays_and_the_channels_key_goes(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.api_key = "upstream-secret"
    spec = ChannelSpec("main", "slipway", upstream.url, api_key="upstream-secret")
    add_channel(gateway.store, spec, replace=True)
    assert gateway.post(chat()).status_code == 200
    headers = upstream.seen[-1].headers
    assert headers["authorization"] == "Bearer upstream-secret"
    assert gateway.key not in json.dumps(dict(headers))


def stream(gateway: Gateway, body: dict[str, Any]) -> bytes:
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        return answer.read()


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_is_what_the_upstream_gives_to_the_same_wish(
    gateway: Gateway, upstream: FakeUpstream, asked: bool
) -> None:
    wish = {"stream_options": {"include_usage": asked, "other": 1}} if asked else {}
    body = chat(stream=True, **wish)
    through = stream(gateway, body)
    assert upstream.seen[-1].body["stream_options"]["include_usage"] is True
    direct = httpx.post(f"{upstream.url}/v1/chat/completions", json=body, trust_env=False).content
    assert through == direct
    assert (b'"usage"' in through) is asked
    row = last(gateway)
    assert (row["prompt_tokens"], row["completion_tokens"], row["stream"]) == (3, 3, True)
    assert not row["estimated"] and row["ttft_ms"] is not None


def test_pieces_arrive_when_they_are_made(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(piece_delay_s=0.15))
    started, times = time.perf_counter(), []
    with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer,
    ):
        times = [time.perf_counter() - started for line in answer.iter_lines() if line]
    assert times[0] < 0.35 and times[1] - times[0] > 0.1
    assert 100 <= last(gateway)["ttft_ms"] < 350


def test_an_event_of_megabytes_passes(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(pieces=("x" * 2_000_000,)))
    assert b"x" * 2_000_000 in stream(gateway, chat(stream=True))


def test_without_reported_usage_it_is_estimated_and_marked(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(report_usage=False), FakeAnswer(report_usage=False))
    stream(gateway, chat(stream=True))
    row = last(gateway)
    assert row["estimated"] and row["completion_tokens"] >= 3 and row["prompt_tokens"] > 0
    gateway.post(chat())
    assert last(gateway)["estimated"] and last(gateway)["cost_micro"] > 0


def test_embeddings_and_completions_are_relayed(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/embeddings", json={"model": "tiny", "input": ["a b", "c"]})
        assert [row["embedding"] for row in answer.json()["data"]] == [[3.0, 1.0], [1.0, 1.0]]
        row = last(gateway)
        assert (row["prompt_tokens"], row["completion_tokens"], row["cost_micro"]) == (3, 0, 3)
        answer = client.post("/v1/completions", json={"model": "tiny", "prompt": "say it"})
        assert answer.json()["choices"][0]["text"] == "say it"
        assert last(gateway)["endpoint"] == "/v1/completions"


def test_who_may_not_is_told_why(gateway: Gateway) -> None:
    _, limited = add_token(gateway.store, "limited", user="ada", models=["other"])
    with httpx.Client(base_url=gateway.url, trust_env=False) as nobody:
        answer = nobody.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key"
        assert "www-authenticate" in answer.headers
        assert nobody.get("/v1/models").status_code == 401
        basic = nobody.post("/v1/chat/completions", json=chat(), auth=("a", gateway.key))
        assert basic.status_code == 401
    wrong = gateway.post(chat(), key="sk-wrong")
    assert wrong.status_code == 401 and error_of(wrong)["type"] == "authentication_error"
    other = gateway.post(chat(), key=limited)
    assert other.status_code == 403 and error_of(other)["code"] == "model_not_allowed"
    unknown = gateway.post(chat() | {"model": "no-such"})
    assert unknown.status_code == 404
    assert error_of(unknown) | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert list_requests(gateway.store) == []


def test_malformed_requests_are_refused(gateway: Gateway) -> None:
    with gateway.client() as client:
        for content in (b"", b"{", b"[1]", b'{"model": 5}', b'{"messages": []}'):
            answer = client.post("/v1/chat/completions", content=content)
            assert answer.status_code == 400, content
            assert error_of(answer)["type"] == "invalid_request_error"
        large = client.post("/v1/chat/completions", content=b" " * (MAX_BODY + 1))
        assert large.status_code == 413 and error_of(large)["code"] == "request_too_large"

        def in_parts() -> Any:
            yield from [b" " * 50_000] * 5

        assert client.post("/v1/chat/completions", content=in_parts()).status_code == 413
        for method, path, status in (
            ("GET", "/v1/chat/completions", 405),
            ("GET", "/v1/nothing", 404),
            ("POST", "/v1/models", 405),
        ):
            answer = client.request(method, path)
            assert answer.status_code == status and error_of(answer)["message"]


def test_too_many_requests_in_a_minute(gateway: Gateway) -> None:
    _, key = add_token(gateway.store, "slow", user="ada", rpm=2)
    assert [gateway.post(chat(), key=key).status_code for _ in range(2)] == [200, 200]
    answer = gateway.post(chat(), key=key)
    assert answer.status_code == 429 and error_of(answer)["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert gateway.post(chat()).status_code == 200


def test_many_at_once_never_spend_more_than_the_budget(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    """Each request costs 9; its reserve is larger, so not every request that fits is let in."""
    upstream.default = FakeAnswer(delay_s=0.05)
    _, key = add_token(gateway.store, "small", user="ada", budget_micro=400)
    with gateway.client(key) as client, ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(
                lambda _: client.post("/v1/chat/completions", json=chat(max_tokens=3)), range(50)
            )
        )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 403}
    refused = next(answer for answer in answers if answer.status_code == 403)
    assert error_of(refused)["code"] == "insufficient_quota"
    small = next(t for t in list_tokens(gateway.store) if t.name == "small")
    assert small.used_micro == 9 * statuses.count(200) <= 400
    assert small.held_micro == 0
    assert len(upstream.seen) == statuses.count(200)
    assert check_books(gateway.store) == []


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (FakeAnswer(status=500, body=b"boom", content_type="text/plain"), 500, "upstream_error"),
        (FakeAnswer(status=400, body=b'{"error": "bad thing"}'), 400, "upstream_error"),
        (
            FakeAnswer(
                status=429,
                body=b'{"error": {"message": "slow down", "code": "tpm"}}',
                headers={"Retry-After": "17"},
            ),
            429,
            "tpm",
        ),
        (FakeAnswer(status=401, body=b'{"error": "key sk-upstream"}'), 502, "upstream_auth"),
        (FakeAnswer(status=302, body=b""), 502, "upstream_redirect"),
    ],
)
def test_errors_of_the_upstream_are_relayed_and_cost_nothing(
    gateway: Gateway, upstream: FakeUpstream, sent: FakeAnswer, status: int, code: str
) -> None:
    upstream.default = sent
    for body in (chat(), chat(stream=True))[: 1 if status == 429 else 2]:
        answer = gateway.post(body)
        assert answer.status_code == status
        error = error_of(answer)
        assert error["code"] == code
        assert answer.headers["x-request-id"] in error["message"]
        assert "sk-upstream" not in answer.text
        assert answer.headers.get("retry-after") == sent.headers.get("Retry-After")
        row = last(gateway)
        assert (row["status"], row["error"], row["cost_micro"]) == (status, code, 0)
        assert outcome(gateway, row["request_id"]) == "released"
    token = list_tokens(gateway.store)[0]
    assert (token.used_micro, token.held_micro) == (0, 0)


def test_a_channel_that_is_down_is_passed_over(gateway: Gateway, upstream: FakeUpstream) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    add_channel(gateway.store, ChannelSpec("dead", "slipway", dead, models=("tiny",), priority=9))
    assert gateway.post(chat()).status_code == 200
    assert last(gateway)["channel"] == "main"
    with gateway.client() as client:
        metrics = client.get("/metrics").text
    assert 'slipway_gateway_fallbacks_total{channel="dead"} 1.0' in metrics
    # so is one that answers with an error of its own
    add_channel(gateway.store, ChannelSpec("second", "slipway", upstream.url, priority=-1))
    upstream.script(FakeAnswer(status=500, body=b"{}"))
    assert gateway.post(chat()).status_code == 200
    assert last(gateway)["channel"] == "second"
    assert len(upstream.seen) == 3


def test_a_channel_that_wants_to_be_left_alone_is_not_asked(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.default = FakeAnswer(status=429, body=b"{}", headers={"Retry-After": "17"})
    assert gateway.post(chat()).status_code == 429
    again = gateway.post(chat())
    assert (again.status_code, error_of(again)["code"]) == (429, "no_channel")
    assert 15 <= int(again.headers["retry-after"]) <= 20
    assert len(upstream.seen) == 1


def test_when_no_channel_answers_the_reserve_is_released(gateway: Gateway) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    add_channel(gateway.store, ChannelSpec("main", "slipway", dead, models=("tiny",)), replace=True)
    answer = gateway.post(chat())
    assert answer.status_code == 502 and error_of(answer)["code"] == "upstream_unreachable"
    assert dead not in answer.text
    assert list_tokens(gateway.store)[0].held_micro == 0
    assert last(gateway)["channel"] is None
    assert check_books(gateway.store) == []


def test_a_silent_upstream_times_out(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(delay_s=5))
    answer = gateway.post(chat())
    assert answer.status_code == 504 and error_of(answer)["code"] == "upstream_timeout"
    assert list_tokens(gateway.store)[0].held_micro == 0


def test_a_stream_that_breaks_off_ends_with_an_error_event(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(pieces=("one", " two", " three"), cut_after=2))
    events = [line for line in stream(gateway, chat(stream=True)).split(b"\n\n") if line]
    assert len(events) == 3 and b"[DONE]" not in events[-1]
    assert json.loads(events[-1][6:])["error"]["code"] == "upstream_disconnected"
    row = last(gateway)
    assert (row["error"], row["completion_tokens"]) == ("upstream_disconnected", 2)
    assert row["estimated"] and row["cost_micro"] > 0
    assert gateway.post(chat()).status_code == 200


def test_an_error_event_of_the_upstream_is_passed_on_and_booked(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    sent = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"error": "worker died"}\n\n'
    upstream.script(FakeAnswer(body=sent, content_type="text/event-stream"))
    assert stream(gateway, chat(stream=True)) == sent
    row = last(gateway)
    assert (row["status"], row["error"], row["completion_tokens"]) == (502, "upstream_error", 1)


@pytest.mark.usefixtures("impatient")
def test_a_busy_database_is_a_503_to_try_again(gateway: Gateway, upstream: FakeUpstream) -> None:
    with closing(sqlite3.connect(gateway.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = gateway.post(chat())
        assert answer.status_code == 503 and error_of(answer)["code"] == "busy"
        assert answer.headers["retry-after"] == "1"
        with gateway.client() as client:  # readers do not wait
            assert client.get("/v1/models").status_code == 200
    assert upstream.seen == []
    assert gateway.post(chat()).status_code == 200


@pytest.mark.usefixtures("impatient")
def test_books_that_cannot_be_closed_at_once_are_closed_later(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(delay_s=0.3))
    with (
        closing(sqlite3.connect(gateway.store.path, isolation_level=None)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(gateway.post, chat())
        until(lambda: bool(upstream.seen))
        other.execute("BEGIN IMMEDIATE")
        time.sleep(0.3 + 1.5 * BUSY_MS / 1000)
        other.execute("ROLLBACK")
        assert answer.result().status_code == 200
    assert last(gateway)["cost_micro"] == 9
    assert check_books(gateway.store) == []


def test_an_answer_that_breaks_off_is_an_error_without_cost(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(cut_after=0))
    answer = gateway.post(chat())
    assert answer.status_code == 502
    assert list_tokens(gateway.store)[0].used_micro == 0
    assert check_books(gateway.store) == []


def test_a_client_that_leaves_stops_the_upstream_and_pays_for_what_it_got(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(pieces=tuple(f" w{n}" for n in range(200)), piece_delay_s=0.03))
    with gateway.client() as client:
        request = client.stream("POST", "/v1/chat/completions", json=chat(stream=True))
        with request as answer:
            lines = answer.iter_lines()
            for _ in range(9):
                next(lines)
    until(lambda: upstream.seen[-1].left)
    until(lambda: bool(list_requests(gateway.store)))
    row = last(gateway)
    assert (row["status"], row["error"]) == (499, "client_disconnected")
    assert 4 <= row["completion_tokens"] < 40 and row["estimated"]
    assert list_tokens(gateway.store)[0].used_micro == row["cost_micro"] > 0
    assert check_books(gateway.store) == []


def test_a_client_that_leaves_before_the_answer_pays_nothing(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(FakeAnswer(delay_s=1.5))
    with pytest.raises(httpx.ReadTimeout), gateway.client() as client:
        client.post("/v1/chat/completions", json=chat(), timeout=0.3)
    until(lambda: bool(list_requests(gateway.store)))
    assert upstream.seen[-1].left
    assert (last(gateway)["status"], last(gateway)["cost_micro"]) == (499, 0)
    assert list_tokens(gateway.store)[0].held_micro == 0


def test_changes_count_from_the_next_request_on(gateway: Gateway, upstream: FakeUpstream) -> None:
    assert gateway.post(chat() | {"model": "new"}).status_code == 404
    upstream.models.append("new")
    spec = ChannelSpec("two", "slipway", upstream.url, models=("new",), price=PRICE)
    add_channel(gateway.store, spec)
    assert gateway.post(chat() | {"model": "new"}).status_code == 200
    revoke_token(gateway.store, "laptop")
    assert gateway.post(chat()).status_code == 401


def test_models_are_listed_as_the_key_may_use_them(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.models = ["a/b:latest", "tiny"]
    add_channel(gateway.store, ChannelSpec("two", "slipway", upstream.url))
    _, limited = add_token(gateway.store, "limited", user="ada", models=["a/b:latest"])
    with gateway.client() as client:
        rows = client.get("/v1/models").json()
        assert [row["id"] for row in rows["data"]] == ["a/b:latest", "tiny"]
        assert client.get("/v1/models/a/b").json()["id"] == "a/b:latest"
        assert client.get("/v1/models/nothing").status_code == 404
    with gateway.client(limited) as client:
        assert [row["id"] for row in client.get("/v1/models").json()["data"]] == ["a/b:latest"]
        assert client.get("/v1/models/tiny").status_code == 404


def test_a_clients_own_request_id_is_kept_beside_ours(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    answer = gateway.post(chat(), headers={"X-Client-Request-Id": "mine-1"})
    assert upstream.seen[-1].headers["x-request-id"] == answer.headers["x-request-id"]
    assert last(gateway)["client_request_id"] == "mine-1"
    gateway.post(chat(), headers={"X-Request-Id": "mine-1"})
    assert last(gateway)["client_request_id"] == "mine-1"
    gateway.post(chat(), headers={"X-Request-Id": "x" * 500})
    assert last(gateway)["client_request_id"] is None
    assert len({row["request_id"] for row in list_requests(gateway.store)}) == 3


def test_health_and_metrics(gateway: Gateway) -> None:
    gateway.post(chat())
    gateway.post(chat(), key="sk-wrong")
    with gateway.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        text = client.get("/metrics").text
    assert (
        'slipway_gateway_requests_total{channel="main",endpoint="/v1/chat/completions",error="",'
        'model="tiny",status="200",stream="false"} 1.0' in text
    )
    assert 'slipway_gateway_tokens_total{channel="main",model="tiny",type="output"} 3.0' in text
    assert 'slipway_gateway_refused_total{code="invalid_api_key",status="401"} 1.0' in text
    assert "slipway_gateway_inflight 0.0" in text
    assert gateway.key not in text and "ada" not in text


def test_keys_and_texts_are_not_logged(
    gateway: Gateway, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    upstream.script(FakeAnswer(), FakeAnswer(status=500, body=b"{}"))
    gateway.post(chat("my-private-words"))
    gateway.post(chat("my-private-words"))
    ours = [r for r in caplog.records if r.name.startswith("slipway")]
    assert ours
    text = "\n".join(record.getMessage() for record in ours)
    assert gateway.key not in text and "my-private-words" not in text
