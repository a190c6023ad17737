from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from tests.api.conftest import RunningDaemon

from slipway.store.manifests import MODEL
from slipway.testing.fake_registry import FakeRegistry, fake_registry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.add("team/new:q4", {MODEL: b"GGUF" + bytes(200_000)})
        yield server


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_pull_is_lines_and_the_model_is_listed(
    http: httpx.Client, registry: FakeRegistry
) -> None:
    name = f"http://{registry.host}/team/new:q4"
    answer = http.post("/api/pull", json={"name": name, "insecure": True})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines(answer)[0] == {"status": "pulling manifest"}
    assert lines(answer)[-1] == {"status": "success"}
    names = [model["name"] for model in http.get("/api/tags").json()["models"]]
    assert f"{registry.host}/team/new:q4" in names


def test_a_pull_without_stream_answers_once(http: httpx.Client, registry: FakeRegistry) -> None:
    body = {"model": f"http://{registry.host}/team/new:q4", "insecure": True, "stream": False}
    assert http.post("/api/pull", json=body).json() == {"status": "success"}


def test_errors_of_a_pull_are_a_line_or_a_status(
    http: httpx.Client, registry: FakeRegistry
) -> None:
    body = {"model": f"http://{registry.host}/team/none:q4", "insecure": True}
    message = "pull model manifest: file does not exist"
    assert lines(http.post("/api/pull", json=body))[-1]["error"].startswith(message)
    answer = http.post("/api/pull", json={**body, "stream": False})
    assert (answer.status_code, answer.json()["error"][: len(message)]) == (404, message)
    answer = http.post("/api/pull", json={"model": body["model"], "stream": False})
    assert answer.status_code == 400
    assert "insecure protocol http" in answer.json()["error"]
    assert http.post("/api/pull", json={}).status_code == 400
    assert http.post("/api/pull", json={"model": "../../x"}).status_code == 400


def test_a_copy_pushed_by_the_daemon_is_in_the_registry(
    http: httpx.Client, registry: FakeRegistry
) -> None:
    target = f"{registry.host}/team/shop:q4"
    http.post("/api/copy", json={"source": "shop:q4", "destination": target})
    answer = http.post("/api/push", json={"model": f"http://{target}", "insecure": True})
    assert lines(answer)[-1] == {"status": "success"}
    assert "team/shop:q4" in registry.manifests


def test_a_client_that_leaves_ends_the_pull(http: httpx.Client, registry: FakeRegistry) -> None:
    registry.bytes_per_s = 50_000
    body = {"model": f"http://{registry.host}/team/new:q4", "insecure": True}
    with http.stream("POST", "/api/pull", json=body) as answer:
        for line in answer.iter_lines():
            if json.loads(line).get("completed", 0) > 0:
                break
    time.sleep(1)
    before = registry.sent
    time.sleep(1)
    assert registry.sent - before < 20_000
    assert registry.sent < 150_000


def test_the_official_client_pulls_and_pushes(
    daemon: RunningDaemon, registry: FakeRegistry
) -> None:
    client = ollama.Client(host=daemon.url)
    name = f"http://{registry.host}/team/new:q4"
    lines = list(client.pull(name, insecure=True, stream=True))
    assert lines[-1].status == "success"
    assert any(line.total and line.completed == line.total for line in lines)
    assert client.pull(name, insecure=True).status == "success"
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        client.pull(f"http://{registry.host}/team/none", insecure=True)
    client.copy(f"{registry.host}/team/new:q4", f"{registry.host}/team/copy:q4")
    told = client.push(f"http://{registry.host}/team/copy:q4", insecure=True, stream=True)
    assert list(told)[-1].status == "success"
    assert registry.manifests["team/copy:q4"] == registry.manifests["team/new:q4"]
    client._client.close()
