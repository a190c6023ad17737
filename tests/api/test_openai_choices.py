"""Several answers to one request, and what else /v1 takes beyond one plain question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.api.test_openai_routes import chat, events

from slipway.core.paths import Home
from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf


def complete(prompt: Any, **more: Any) -> dict[str, Any]:
    return {"model": "shop:q4", "prompt": prompt, **more}


def sent(answer: httpx.Response, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.json()["choices"][number]["message"]["content"])
    return found


def test_n_answers_come_in_order_with_seeds_that_count_up(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json=chat("/dump", n=3, seed=7))
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    assert [sent(answer, number)["seed"] for number in range(3)] == [7, 8, 9]
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == 3  # the prompt counts once
    one = http.post("/v1/chat/completions", json=chat("/count 4", n=1)).json()["usage"]
    three = http.post("/v1/chat/completions", json=chat("/count 4", n=3)).json()["usage"]
    assert three["completion_tokens"] == 3 * one["completion_tokens"]


def test_n_answers_are_streamed_side_by_side(http: httpx.Client) -> None:
    body = chat("/count 5", n=2, stream=True, stream_options={"include_usage": True})
    *chunks, last = events(http.post("/v1/chat/completions", json=body))
    for number in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == number]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in mine) == "w0 w1 w2 w3 w4"
        assert [c["finish_reason"] for c in mine].count("stop") == 1
    assert last["usage"]["completion_tokens"] == 10
    assert last["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("n", [0, -1, 129])
def test_an_impossible_n_is_refused(http: httpx.Client, n: int) -> None:
    answer = http.post("/v1/chat/completions", json=chat("x", n=n))
    assert answer.status_code == 400
    assert "`n`" in answer.json()["error"]["message"]


def test_when_one_of_several_answers_dies_the_request_fails(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    gguf = write_gguf(daemon.home.root / "m.gguf")
    create_model("m", f"FROM {gguf}", home=daemon.home)
    with daemon.client() as http:
        body = {**chat("/die", n=2), "model": "m"}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code >= 500
        told = http.post("/v1/chat/completions", json={**body, "stream": True})
        assert "engine.lost" in told.text
        assert daemon.residents() == [] or all(r.leases == 0 for r in daemon.residents())


def test_several_prompts_have_n_answers_each(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=complete(["/count 2", "/count 3"], n=2)).json()
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == ["w0 w1", "w0 w1", "w0 w1 w2", "w0 w1 w2"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 4


def test_token_ids_are_a_prompt_and_lists_of_them_are_several(http: httpx.Client) -> None:
    ids = [
        http.post("/v1/tokenize", json={"model": "shop:q4", "content": text}).json()["tokens"]
        for text in ("/count 2", "/count 3")
    ]
    one = http.post("/v1/completions", json=complete(ids[0])).json()
    assert [choice["text"] for choice in one["choices"]] == ["w0 w1"]
    two = http.post("/v1/completions", json=complete(ids)).json()
    assert [choice["text"] for choice in two["choices"]] == ["w0 w1", "w0 w1 w2"]


def test_echo_puts_the_prompt_before_the_answer(http: httpx.Client) -> None:
    body = complete("/count 2", echo=True)
    whole = http.post("/v1/completions", json=body).json()
    assert whole["choices"][0]["text"] == "/count 2w0 w1"
    chunks = events(http.post("/v1/completions", json={**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "/count 2w0 w1"


def test_log_probabilities_of_a_completion_have_four_lists_that_agree(http: httpx.Client) -> None:
    body = complete("/count 3", logprobs=1)
    whole = http.post("/v1/completions", json=body).json()["choices"][0]
    found = whole["logprobs"]
    assert "".join(found["tokens"]) == whole["text"]
    assert found["token_logprobs"] == [-0.5] * 3
    assert found["top_logprobs"] == [{token: -0.5} for token in found["tokens"]]
    assert [
        whole["text"][at:].startswith(t)
        for at, t in zip(found["text_offset"], found["tokens"], strict=True)
    ]
    chunks = events(http.post("/v1/completions", json={**body, "stream": True}))
    offsets = [
        o for c in chunks for o in (c["choices"][0]["logprobs"] or {}).get("text_offset", [])
    ]
    assert offsets == found["text_offset"]
    none = http.post("/v1/completions", json=complete("/count 1", logprobs=0)).json()
    assert none["choices"][0]["logprobs"]["top_logprobs"] is None


def test_log_probabilities_of_a_chat(http: httpx.Client) -> None:
    body = chat("a", logprobs=True, top_logprobs=2)
    found = http.post("/v1/chat/completions", json=body).json()["choices"][0]["logprobs"]
    assert [token["token"] for token in found["content"]] == ["echo:", " a"]
    assert len(found["content"][0]["top_logprobs"]) == 2


def test_a_suffix_fills_the_gap_where_the_model_can(start_daemon: StartDaemon, home: Home) -> None:
    daemon = start_daemon("--fim")
    create_model("m", f"FROM {write_gguf(home.root / 'm.gguf')}", home=home)
    with daemon.client() as http:
        body = {"model": "m", "prompt": "left", "suffix": "right"}
        answer = http.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == "echo: left ... right"


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"echo": True, "suffix": "x"}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [1, 2], "suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_what_a_completion_cannot_have_is_named(
    http: httpx.Client, more: dict[str, Any], names: str
) -> None:
    answer = http.post("/v1/completions", json={**complete("x"), **more})
    assert answer.status_code == 400
    assert names in answer.json()["error"]["message"]


@pytest.fixture
def thinker(home: Home, tmp_path: Path) -> str:
    able = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": able})
    create_model("able", f"FROM {gguf}", home=home)
    return "able"


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"reasoning_effort": "high"}, {"enable_thinking": True, "reasoning_effort": "high"}),
        ({"reasoning_effort": "minimal"}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"reasoning": {"effort": "xhigh"}}, {"enable_thinking": True, "reasoning_effort": "max"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
    ],
)
def test_reasoning_effort_reaches_the_template(
    daemon: RunningDaemon, thinker: str, fields: dict[str, Any], arguments: dict[str, Any]
) -> None:
    with daemon.client() as http:
        answer = http.post(
            "/v1/chat/completions", json={**chat("/dump", **fields), "model": thinker}
        )
        assert sent(answer)["chat_template_kwargs"] == arguments


def test_effort_without_thinking_is_refused_but_none_is_not(http: httpx.Client) -> None:
    refused = http.post("/v1/chat/completions", json=chat("x", reasoning_effort="high"))
    assert refused.status_code == 400
    assert "thinking" in refused.json()["error"]["message"]
    assert (
        http.post("/v1/chat/completions", json=chat("x", reasoning_effort="none")).status_code
        == 200
    )


def test_tool_calls_are_passed_on_piece_by_piece(daemon: RunningDaemon, thinker: str) -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    body = {**chat('/tool find {"n": 1}', tools=[tool], parallel_tool_calls=True), "model": thinker}
    with daemon.client() as http:
        whole = http.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert whole["finish_reason"] == "tool_calls"
        (call,) = whole["message"]["tool_calls"]
        assert (call["id"], call["function"]) == (
            "call_1",
            {"name": "find", "arguments": '{"n": 1}'},
        )
        chunks = events(http.post("/v1/chat/completions", json={**body, "stream": True}))
        pieces = [p for c in chunks for p in c["choices"][0]["delta"].get("tool_calls", [])]
        assert "".join(p["function"]["arguments"] for p in pieces) == '{"n": 1}'
        dumped = {**chat("/dump", tools=[tool], parallel_tool_calls=False), "model": thinker}
        assert sent(http.post("/v1/chat/completions", json=dumped))["parallel_tool_calls"] is False


def test_a_picture_must_come_along_and_the_model_must_see(http: httpx.Client) -> None:
    def ask(url: str) -> str:
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        answer = http.post("/v1/chat/completions", json=chat(parts))  # type: ignore[arg-type]
        assert answer.status_code == 400
        return str(answer.json()["error"]["message"])

    assert "base64" in ask("http://169.254.169.254/latest/meta-data")
    assert "does not support vision" in ask("data:image/png;base64,iVBORw0KGgo=")


def test_embeddings_take_options_and_cut_only_when_told(http: httpx.Client, embedder: str) -> None:
    long = {"model": embedder, "input": "w " * 600, "options": {"num_ctx": 64}}
    assert http.post("/v1/embeddings", json=long).status_code == 400
    cut = http.post("/v1/embeddings", json={**long, "truncate": True})
    assert cut.status_code == 200
