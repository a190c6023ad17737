"""Crashes, disconnects, strangers, and what the metrics say of them."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon

from slipway.core.log import JsonFormatter
from slipway.core.process import is_alive


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "shop:q4", "messages": [{"role": "user", "content": text}], **more}


def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def worker_pid(daemon: RunningDaemon) -> int:
    (entry,) = daemon.app.state.daemon.residency._owner.table.values()  # type: ignore[attr-defined]
    return int(entry.worker.pid)


def test_a_worker_that_dies_mid_stream_gives_an_error_line_and_the_next_request_works(
    http: httpx.Client,
) -> None:
    lines = [json.loads(x) for x in http.post("/api/chat", json=chat("/die")).text.splitlines()]
    assert [line["message"]["content"] for line in lines[:-1]] == ["I", " am"]
    assert "engine stopped" in lines[-1]["error"]
    assert http.post("/api/chat", json=chat("hello", stream=False)).status_code == 200
    assert 'slipway_worker_crashes_total{model="shop:q4"} 1.0' in http.get("/metrics").text


def test_the_same_over_sse_and_without_a_stream(http: httpx.Client) -> None:
    http.post("/api/chat", json={"model": "shop:q4", "options": {"top_k": "x"}})
    counted = 'slipway_errors_total{code="request.bad_option",model="shop:q4"} 1.0'
    assert counted in http.get("/metrics").text
    text = http.post("/v1/chat/completions", json=chat("/die", stream=True)).text
    assert (
        'slipway_errors_total{code="engine.lost",model="shop:q4"} 1.0' in http.get("/metrics").text
    )
    last = text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine.lost"
    assert http.post("/v1/chat/completions", json=chat("/die")).status_code == 500
    assert http.post("/v1/chat/completions", json=chat("hello")).status_code == 200


def test_a_worker_killed_while_idle_is_not_noticed_by_the_client(
    daemon: RunningDaemon, http: httpx.Client
) -> None:
    http.post("/api/chat", json=chat("hello", stream=False))
    pid = worker_pid(daemon)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))  # a dying one may still take a connection
    answer = http.post("/api/chat", json=chat("hello again", stream=False))
    assert answer.json()["message"]["content"] == "echo: hello again"


def test_a_client_that_leaves_a_stream_frees_the_worker(
    start_daemon: StartDaemon, shop: str
) -> None:
    daemon = start_daemon("--tokens-per-second", "20")
    with daemon.client() as http:
        with http.stream("POST", "/api/chat", json=chat("/count 1000")) as answer:
            lines = answer.iter_lines()  # kept: dropping it would close the connection
            next(lines)
            assert [r.leases for r in daemon.residents()] == [1]
        until(lambda: [r.leases for r in daemon.residents()] == [0])


def test_a_client_that_leaves_before_the_answer_frees_the_worker(
    start_daemon: StartDaemon, shop: str
) -> None:
    daemon = start_daemon("--tokens-per-second", "20")
    with daemon.client() as http:
        http.post("/api/generate", json={"model": "shop:q4"})
        with pytest.raises(httpx.ReadTimeout):
            http.post("/api/chat", json=chat("/count 1000", stream=False), timeout=0.3)
        until(lambda: [r.leases for r in daemon.residents()] == [0])
        assert 'status="499"' in http.get("/metrics").text


def test_several_requests_are_served_at_once(start_daemon: StartDaemon, shop: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    daemon = start_daemon("--tokens-per-second", "40")
    with daemon.client() as http, ThreadPoolExecutor(4) as pool:
        http.post("/api/generate", json={"model": "shop:q4"})
        begun = time.monotonic()
        body = chat("/count 40", stream=False)
        answers = list(pool.map(lambda _: http.post("/api/chat", json=body), range(4)))
        assert all(answer.json()["eval_count"] == 40 for answer in answers)
        assert time.monotonic() - begun < 3.0  # one after the other would take four


def test_a_model_that_cannot_be_loaded_is_an_error_with_the_engines_words(
    start_daemon: StartDaemon, shop: str
) -> None:
    daemon = start_daemon("--fail-load")
    with daemon.client() as http:
        answer = http.post("/api/chat", json=chat("hello"))
        assert answer.status_code == 500
        assert "failed to load the model" in answer.json()["error"]
        assert http.get("/api/version").status_code == 200


def test_loading_that_takes_too_long_is_given_up(start_daemon: StartDaemon, shop: str) -> None:
    daemon = start_daemon("--load-delay", "60", load_timeout_s=0.5)
    with daemon.client() as http:
        answer = http.post("/api/chat", json=chat("hello"))
        assert answer.status_code == 500
        assert "not ready" in answer.json()["error"]


def test_foreign_hosts_and_pages_are_refused(http: httpx.Client) -> None:
    assert http.get("/", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/", headers={"host": "localhost:11434"}).status_code == 200
    assert http.get("/", headers={"host": "192.168.1.5"}).status_code == 200
    bad = http.post("/api/chat", json=chat("x"), headers={"origin": "https://evil.example"})
    assert bad.status_code == 403
    # a sandboxed frame of any page sends this
    assert http.post("/api/chat", json=chat("x"), headers={"origin": "null"}).status_code == 403
    assert http.get("/", headers={"origin": "http://localhost:3000"}).status_code == 200


def test_a_request_id_is_kept_or_made(http: httpx.Client) -> None:
    assert http.get("/", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = http.get("/", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]
    assert len(made) == 16


def test_metrics_count_tokens_requests_and_first_token_times(http: httpx.Client) -> None:
    http.post("/api/chat", json=chat("one two", stream=False))
    text = http.get("/metrics").text
    assert 'slipway_tokens_total{model="shop:q4",type="completion"} 3.0' in text
    assert 'slipway_tokens_total{model="shop:q4",type="prompt"} 4.0' in text
    assert 'slipway_requests_total{model="shop:q4",route="/api/chat",status="200"} 1.0' in text
    assert 'slipway_time_to_first_token_seconds_count{model="shop:q4"} 1.0' in text
    assert "slipway_models_loaded 1.0" in text
    assert 'slipway_model_memory_bytes{model="shop:q4"}' in text


def test_a_line_break_in_a_path_makes_no_line_of_the_log(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="slipway.api"):
        assert http.get("/api/x%0aforged").status_code == 404
        until(lambda: any("forged" in record.getMessage() for record in caplog.records))
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_daemon_with_a_key_wants_it_of_every_request(
    start_daemon: StartDaemon, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start_daemon(key="secret-1")
    with daemon.client() as http:
        assert http.get("/api/version").status_code == 200
        for path in ("/api/tags", "/metrics", "/v1/models"):
            refused = http.get(path)
            assert refused.status_code == 401 and "wants its key" in refused.text
            wrong = http.get(path, headers={"authorization": "Bearer secret-2"})
            assert wrong.status_code == 401
            assert http.get(path, headers={"authorization": "Bearer secret-1"}).status_code == 200
            assert http.get(path, headers={"x-api-key": "secret-1"}).status_code == 200
        assert http.post("/v1/messages", json={}).json()["error"]["type"] == "authentication_error"
    from slipway.client import DaemonClient

    monkeypatch.setenv("SLIPWAY_SERVE_KEY", "secret-1")
    with DaemonClient(daemon.url) as client:
        assert [model["name"] for model in client.models()] == ["shop:q4"]


def _records_of(request_id: str, caplog: pytest.LogCaptureFixture) -> list[Any]:
    fields = [(record, getattr(record, "fields", {})) for record in caplog.records]
    return [record for record, found in fields if found.get("request_id") == request_id]


def test_a_logged_request_carries_its_fields_and_json_lines_hold_them(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="slipway.api"):
        http.post("/api/chat", json=chat("hi", stream=False), headers={"x-request-id": "r-1"})
        # the line is written after the answer's last byte, which is all that the client waits for
        until = time.monotonic() + 10
        while not (records := _records_of("r-1", caplog)) and time.monotonic() < until:
            time.sleep(0.01)
    (record,) = records
    line = json.loads(JsonFormatter().format(record))
    assert (line["status"], line["model"], line["path"]) == (200, "shop:q4", "/api/chat")
    assert line["level"] == "INFO" and line["ms"] >= line["first_ms"] > 0
    assert "\n" not in JsonFormatter().format(record)
