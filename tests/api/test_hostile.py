"""Thousands of hostile requests: no failure of ours, no hang, no file outside of the store."""

from __future__ import annotations

import json
import random
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon

NAMES = [
    "shop:q4",
    "minilm",
    "",
    "../../etc/passwd",
    "..%2f..%2fetc/passwd",
    "/etc/passwd",
    "a/../../b",
    "shop:q4/../x",
    "shop:q4+minilm",
    "shop:q4+",
    "+",
    "http://169.254.169.254/x",
    "x" * 400,
    "名:标签",
    "shop:q4\x00",
    "a:b:c",
    ".hidden",
    "C:\\windows",
    "blobs/sha256-" + "0" * 64,
]
MESSAGES: list[Any] = [
    [{"role": "user", "content": "hello"}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
    [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
        }
    ],
    [{"role": "tool", "content": None}],
    [{"role": 3}],
    [{}],
    [[]],
    "text",
    [{"role": "user", "content": "x", "images": ["../../etc/passwd", 1]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": 1, "arguments": "{"}}]}],
    [{"role": "assistant", "tool_calls": ["x", {}]}],
    [],
]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5e308,
    "",
    "x",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    [],
    {},
    [[[[[[]]]]]],
    {"a": {"b": {"c": None}}},
    "A" * 5000,
    "{{ range 1000000000 }}{{ end }}",
    "%s%n%x",
    "'; DROP TABLE x; --",
]
FIELDS = [
    "stream options keep_alive format think tools truncate suffix system template context raw",
    "images logprobs top_logprobs n max_tokens temperature top_p stop seed tool_choice from",
    "response_format logit_bias dimensions encoding_format input prompt content tokens files",
    "adapters quantize parameters messages license source destination name verbose thinking top_k",
]
WORDS = " ".join(FIELDS).split()
ROUTES = (
    "/api/chat /api/generate /api/embed /api/embeddings /api/show /api/create /api/copy "
    "/api/delete /api/tokenize /api/detokenize /api/ps /api/tags /api/queue /api/version "
    "/api/status /api/me "
    "/v1/chat/completions /v1/completions /v1/embeddings /v1/models /v1/messages "
    "/v1/messages/count_tokens /metrics / /nothing /api/../../etc/passwd /v1/models/../../x "
    "/api/blobs/sha256:" + "0" * 64 + " /api/blobs/..%2f..%2fx"
).split(" ")
METHODS = ("POST", "POST", "POST", "POST", "GET", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS")


def body(draw: random.Random) -> bytes:
    """JSON that is nearly right, or no JSON at all."""
    kind = draw.random()
    if kind < 0.06:
        return draw.choice([b"", b"{", b"\xff\xfe", b"null", b"[]", b'"x"', b"1", b"{}" * 3])
    if kind < 0.09:
        return b"[" * 20_000 + b"]" * 20_000
    value: dict[str, Any] = {"model": draw.choice(NAMES) if draw.random() < 0.5 else "shop:q4"}
    if draw.random() < 0.7:
        value["messages"] = draw.choice(MESSAGES)
    if draw.random() < 0.5:
        value["prompt"] = draw.choice(["hi", *ODD])
    if draw.random() < 0.5:
        value["stream"] = draw.random() < 0.5
    for word in draw.sample(WORDS, draw.randint(0, 4)):
        value[word] = draw.choice(ODD)
    if draw.random() < 0.3:
        names = ["num_ctx", "num_predict", "temperature", "stop", "num_gpu", "num_batch", "nope"]
        value["options"] = {draw.choice(names): draw.choice(ODD) for _ in range(3)}
    value.setdefault("options", {})
    if isinstance(value["options"], dict):
        value["options"].setdefault("num_predict", 4)
    return json.dumps(value).encode()


def headers(draw: random.Random) -> dict[str, str]:
    found = {}
    if draw.random() < 0.15:
        found["host"] = draw.choice(["evil.example", "localhost", "127.0.0.1:1", "[::1]", "a b"])
    if draw.random() < 0.15:
        found["origin"] = draw.choice(["null", "https://evil.example", "http://localhost", "x"])
    if draw.random() < 0.2:
        odd = draw.choice(["", "0", "-1", "nan", "1h", "x" * 2000, "1e9"])
        name = draw.choice(["x-slipway-queue-timeout", "x-slipway-caller", "x-request-id"])
        found[name] = odd
    if draw.random() < 0.1:
        found["content-type"] = draw.choice(["text/plain", "multipart/form-data", "x"])
    return found


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def attack(daemon: RunningDaemon, outside: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    before = tree(outside)
    with httpx.Client(base_url=daemon.url, timeout=20) as http:
        for number in range(count):
            method, route, data = draw.choice(METHODS), draw.choice(ROUTES), body(draw)
            sent = headers(draw)
            if route in ("/api/delete", "/api/create", "/api/copy"):
                data = data.replace(b"shop:q4", b"victim").replace(b"minilm", b"victim")
            begun = time.monotonic()
            answer = http.request(method, route, content=data, headers=sent)
            what = (number, method, route, data[:300], sent, answer.status_code, answer.text[:300])
            assert time.monotonic() - begun < 10, what
            if answer.status_code >= 500:
                error = answer.json().get("error")
                code = error["code"] if isinstance(error, dict) else answer.json().get("code")
                assert str(code).startswith("engine."), what
        assert http.get("/api/version").status_code == 200
        ok = {"model": "shop:q4", "messages": MESSAGES[0], "stream": False}
        assert http.post("/api/chat", json=ok).json()["message"]["content"] == "echo: hello"
    assert tree(outside) == before
    models = {path.parent.name for path in (daemon.home.models / "manifests").glob("*/*/*/*")}
    assert models <= {"shop", "minilm"}, models


@pytest.fixture
def daemon(start_daemon: StartDaemon, shop: str, embedder: str) -> RunningDaemon:
    return start_daemon("--tokens-per-second", "5000", queue_timeout_s=5.0)


def test_hostile_requests_are_refused_and_harm_nothing(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    attack(daemon, outside(tmp_path), 1500, seed=1)


@pytest.mark.slow
def test_ten_thousand_hostile_requests(daemon: RunningDaemon, tmp_path: Path) -> None:
    attack(daemon, outside(tmp_path), 10_000, seed=2)


def outside(tmp_path: Path) -> Path:
    """A folder beside the home, in which nothing may appear."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "kept").write_text("x")
    return folder


def test_a_slow_or_endless_body_does_not_stop_the_others(daemon: RunningDaemon) -> None:
    port = int(daemon.url.rsplit(":", 1)[1])
    head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + b'{"model":')
        with httpx.Client(base_url=daemon.url, timeout=10) as http:
            ok = {"model": "shop:q4", "messages": MESSAGES[0], "stream": False}
            assert http.post("/api/chat", json=ok).status_code == 200
    finally:
        for connection in slow:
            connection.close()


def test_a_body_beyond_the_limit_is_refused(daemon: RunningDaemon) -> None:
    def endless() -> Any:
        for _ in range(130):
            yield b"x" * (1 << 20)

    with httpx.Client(base_url=daemon.url, timeout=30) as http:
        answer = http.post("/api/chat", content=endless())
    assert answer.status_code == 413
