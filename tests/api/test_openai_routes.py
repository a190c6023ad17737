from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import pytest


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "shop:q4", "messages": [{"role": "user", "content": text}], **more}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_completion_has_openais_fields_and_the_engines_counts(http: httpx.Client) -> None:
    body = http.post("/v1/chat/completions", json=chat("hello")).json()
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "echo: hello"}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["completion_tokens"] == 2
    assert body["usage"]["total_tokens"] == 5


def test_a_stream_opens_with_the_role_and_ends_with_finish_usage_done(http: httpx.Client) -> None:
    body = chat("a b", stream=True, stream_options={"include_usage": True})
    chunks = events(http.post("/v1/chat/completions", json=body))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "echo:"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-2]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    plain = events(http.post("/v1/chat/completions", json=chat("a b", stream=True)))
    assert all("usage" not in chunk for chunk in plain)


def test_the_modelfiles_options_hold_and_the_requests_win(http: httpx.Client) -> None:
    def sent(**more: Any) -> dict[str, Any]:
        answer = http.post("/v1/chat/completions", json=chat("/dump", **more)).json()
        return json.loads(answer["choices"][0]["message"]["content"])

    assert sent()["temperature"] == 0.25
    assert sent()["messages"][0]["content"] == "Be short."
    assert sent(temperature=0.75)["temperature"] == 0.75
    assert sent(max_tokens=999)["n_predict"] == 999
    assert sent(max_completion_tokens=777)["n_predict"] == 777
    assert sent(options={"top_k": 3})["top_k"] == 3
    assert sent(logit_bias={"5": -1})["logit_bias"] == {"5": -1}


def test_completions_continue_a_raw_prompt(http: httpx.Client) -> None:
    body = {"model": "shop:q4", "prompt": "/count 5", "max_tokens": 2}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "w0 w1"
    assert answer["choices"][0]["finish_reason"] == "length"
    chunks = events(http.post("/v1/completions", json={**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "w0 w1"


def test_models_are_listed_and_found_by_a_name_with_slashes(http: httpx.Client) -> None:
    (model,) = http.get("/v1/models").json()["data"]
    assert model["id"] == "shop:q4"
    assert model["owned_by"] == "library"
    assert http.get("/v1/models/library/shop:q4").json()["id"] == "shop:q4"
    assert http.get("/v1/models/none").status_code == 404


def test_embeddings_come_as_numbers_and_as_base64(http: httpx.Client, embedder: str) -> None:
    body = {"model": embedder, "input": ["a b", "c"]}
    plain = http.post("/v1/embeddings", json=body).json()
    packed = http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    for number, text in zip(plain["data"], packed["data"], strict=True):
        raw = base64.b64decode(text["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(number["embedding"])
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    tokens = http.post("/v1/embeddings", json={"model": embedder, "input": [5, 6, 7]}).json()
    assert tokens["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"model": "nope", "messages": [{}]}, 404, "not_found_error", "'nope' not found"),
        ({"model": "shop:q4", "messages": []}, 400, "invalid_request_error", "too short"),
        ({"model": "shop:q4", "messages": [{}]}, 400, "invalid_request_error", "messages.0.role"),
        (chat("x", temperature=-1), 400, "invalid_request_error", "temperature"),
        (chat("x", tools=[{}]), 400, "invalid_request_error", "does not support tools"),
        (chat("w " * 3000), 400, "invalid_request_error", "3002 tokens"),
    ],
)
def test_a_bad_request_has_openais_error_shape(
    http: httpx.Client, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == kind
    assert message in error["message"]
    assert set(error) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", ["input_audio", "file"])
def test_what_the_model_cannot_hear_or_read_is_the_requests_fault(
    http: httpx.Client, kind: str
) -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": kind, kind: {}}]
    body = {"model": "shop:q4", "messages": [{"role": "user", "content": parts}]}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert kind in answer.json()["error"]["message"]
