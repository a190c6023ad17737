"""The queue before a busy model: bounded, fair, visible, and told in headers."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon

from slipway.store import create_model
from slipway.testing.gguf import write_gguf


def ask(daemon: RunningDaemon, text: str, **headers: str) -> httpx.Response:
    body = {"model": "shop:q4", "messages": [{"role": "user", "content": text}], "stream": False}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with daemon.client() as http:
        return http.post("/api/chat", json=body, headers=named)


def waiting(daemon: RunningDaemon) -> list[dict[str, Any]]:
    with daemon.client() as http:
        models = http.get("/api/queue").json()["models"]
    return [place for model in models for place in model["waiting"]]


def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def busy(start_daemon: StartDaemon, shop: str) -> Any:
    """A daemon with one place, and that taken for about two seconds."""
    daemon = start_daemon("--tokens-per-second", "50", parallel=1, max_queue=2)
    ask(daemon, "warm up")
    pool = ThreadPoolExecutor(8)
    first = pool.submit(ask, daemon, "/count 100")
    until(lambda: [r.leases for r in daemon.residents()] == [1])
    yield daemon, pool
    first.result()
    pool.shutdown()


def test_places_are_visible_while_waiting_and_told_afterwards(busy: Any) -> None:
    daemon, pool = busy
    second = pool.submit(ask, daemon, "b", x_request_id="req-b")
    until(lambda: len(waiting(daemon)) == 1)
    third = pool.submit(ask, daemon, "c", x_request_id="req-c")
    until(lambda: len(waiting(daemon)) == 2)
    assert [(w["request_id"], w["position"]) for w in waiting(daemon)] == [
        ("req-b", 1),
        ("req-c", 2),
    ]
    with daemon.client() as http:
        (model,) = http.get("/api/queue?request_id=req-c").json()["models"]
    assert (model["active"], model["slots"]) == (1, 1)
    assert [w["request_id"] for w in model["waiting"]] == ["req-c"]
    assert third.result().headers["x-slipway-queue-position"] == "2"
    timing = second.result().headers["server-timing"]
    assert {part.split(";")[0] for part in timing.split(", ")} == {
        "queue",
        "load",
        "first",
        "prompt",
        "completion",
    }
    assert float(timing.split("queue;dur=")[1].split(",")[0]) > 500
    with daemon.client() as http:
        text = http.get("/metrics").text
    assert 'slipway_queue_wait_seconds_count{model="shop:q4"} 4.0' in text
    assert 'slipway_inter_token_latency_seconds_count{model="shop:q4"}' in text


def test_a_full_queue_says_when_to_come_back(busy: Any) -> None:
    daemon, pool = busy
    others: list[Future[httpx.Response]] = [pool.submit(ask, daemon, "x") for _ in range(2)]
    until(lambda: len(waiting(daemon)) == 2)
    refused = ask(daemon, "one too many")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "2 requests are waiting" in refused.json()["error"]
    assert all(other.result().status_code == 200 for other in others)


def test_a_request_can_say_how_long_it_waits(busy: Any) -> None:
    daemon, _ = busy
    begun = time.monotonic()
    late = ask(daemon, "x", x_slipway_queue_timeout="200ms")
    assert (late.status_code, late.json()["code"]) == (503, "engine.queue_timeout")
    assert 0.2 <= time.monotonic() - begun < 1.5
    assert int(late.headers["retry-after"]) >= 1
    bad = ask(daemon, "x", x_slipway_queue_timeout="soon")
    assert bad.status_code == 400
    until(lambda: waiting(daemon) == [])


def test_callers_take_turns(start_daemon: StartDaemon, shop: str) -> None:
    daemon = start_daemon("--tokens-per-second", "50", parallel=1)
    ask(daemon, "warm up")
    done: list[str] = []
    lock = threading.Lock()

    def one(caller: str) -> None:
        ask(daemon, "/count 10", x_slipway_caller=caller)
        with lock:
            done.append(caller)

    with ThreadPoolExecutor(8) as pool:
        pool.submit(ask, daemon, "/count 60", x_slipway_caller="many")
        until(lambda: [r.leases for r in daemon.residents()] == [1])
        for _ in range(4):
            pool.submit(one, "many")
        until(lambda: len(waiting(daemon)) == 4)
        pool.submit(one, "few")
    assert done == ["few", "many", "many", "many", "many"]


def test_a_pinned_model_is_loaded_at_the_start_and_stays(
    start_daemon: StartDaemon, shop: str
) -> None:
    daemon = start_daemon(pin=("shop:q4",), preload=("gone",), keep_alive_s=0.05)
    until(lambda: [r.state for r in daemon.residents()] == ["ready"])
    ask(daemon, "hello")
    time.sleep(0.3)
    assert [(r.name, r.pinned) for r in daemon.residents()] == [("shop:q4", True)]


@pytest.fixture
def tuned(daemon: RunningDaemon, tmp_path: Path) -> str:
    """A model with an adapter over the same weights."""
    adapter = write_gguf(
        tmp_path / "lora" / "a.gguf",
        extra={"general.type": "adapter", "adapter.type": "lora", "general.file_type": None},
    )
    text = f"FROM shop:q4\nADAPTER {adapter}"
    return create_model("tuned:v1", text, home=daemon.home).name.display


def test_adapters_are_named_per_request_and_share_one_worker(
    daemon: RunningDaemon, tuned: str
) -> None:
    def lora(model: str) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "/dump"}]}
        with daemon.client() as http:
            answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.json()["choices"][0]["message"]["content"]).get("lora")

    assert lora("shop:q4") is None
    assert lora("shop:q4+tuned:v1") == [{"id": 0, "scale": 1.0}]
    assert lora("tuned:v1") == [{"id": 0, "scale": 1.0}]
    assert lora("shop:q4") == [{"id": 0, "scale": 0.0}]
    until(lambda: len(daemon.residents()) == 1)
    with daemon.client() as http:
        refused = http.post("/api/chat", json={"model": "tuned:v1+shop:q4"})
        assert refused.status_code == 400
        assert "no adapter" in refused.json()["error"]
        assert http.post("/api/chat", json={"model": "shop:q4+nothing"}).status_code == 404
