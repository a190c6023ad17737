from __future__ import annotations

import json
import math
import time
from typing import Any

import httpx
import pytest

from slipway.core.paths import Home
from slipway.store import create_model, resolve_model


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "shop:q4", "messages": [{"role": "user", "content": text}], **more}


def seen(answer: httpx.Response) -> dict[str, Any]:
    """What the engine was sent, from the fake's `/dump`."""
    return json.loads(answer.json()["message"]["content"])


def test_root_says_what_clients_look_for(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200
    assert all(part.isdigit() for part in http.get("/api/version").json()["version"].split("."))


def test_a_stream_is_lines_of_json_that_end_with_counts(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat("hello there"))
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == "echo: hello there"
    assert [line["done"] for line in lines] == [False] * 3 + [True]
    last = lines[-1]
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (4, 3)
    assert last["total_duration"] >= last["load_duration"] > 0
    assert last["created_at"].endswith("Z")
    assert all(line["model"] == "shop:q4" for line in lines)


def test_without_stream_the_answer_is_one_object(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat("hello", stream=False))
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = answer.json()
    assert body["message"] == {"role": "assistant", "content": "echo: hello"}
    assert body["done"] is True


def test_the_models_own_options_hold_under_the_requests(http: httpx.Client) -> None:
    sent = seen(http.post("/api/chat", json=chat("/dump", stream=False)))
    assert (sent["temperature"], sent["stop"], sent["top_p"]) == (0.25, ["<end>"], 0.9)
    options = {"temperature": 1, "num_predict": 4000, "seed": 7, "bogus": 1}
    sent = seen(http.post("/api/chat", json=chat("/dump", stream=False, options=options)))
    assert (sent["temperature"], sent["seed"], sent["n_predict"]) == (1.0, 7, 4000)
    assert "bogus" not in sent


def test_the_system_text_is_the_requests_or_else_the_models(http: httpx.Client) -> None:
    sent = seen(http.post("/api/chat", json=chat("/dump", stream=False)))
    assert sent["messages"][0] == {"role": "system", "content": "Be short."}
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "/dump"}]
    body = {"model": "shop:q4", "messages": own, "stream": False}
    assert seen(http.post("/api/chat", json=body))["messages"] == own


def test_format_becomes_a_schema(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    sent = seen(http.post("/api/chat", json=chat("/dump", stream=False, format=schema)))
    assert sent["response_format"]["json_schema"]["schema"] == schema
    refused = http.post("/api/chat", json=chat("x", format="xml"))
    assert refused.status_code == 400


def test_the_length_limit_is_told(http: httpx.Client) -> None:
    body = http.post(
        "/api/chat", json=chat("/count 50", stream=False, options={"num_predict": 5})
    ).json()
    assert (body["done_reason"], body["eval_count"]) == ("length", 5)


def test_generate_answers_and_raw_passes_the_prompt_untouched(http: httpx.Client) -> None:
    body = {"model": "shop:q4", "prompt": "hello", "stream": False}
    assert http.post("/api/generate", json=body).json()["response"] == "echo: hello"
    raw = http.post("/api/generate", json={**body, "prompt": "/dump", "raw": True}).json()
    assert json.loads(raw["response"])["prompt"] == "/dump"
    mixed = http.post("/api/generate", json={**body, "raw": True, "system": "x"})
    assert mixed.status_code == 400


def test_an_empty_request_loads_and_keep_alive_zero_unloads(http: httpx.Client) -> None:
    loaded = http.post("/api/generate", json={"model": "shop:q4"}).json()
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    (model,) = http.get("/api/ps").json()["models"]
    assert model["name"] == model["model"] == "shop:q4"
    assert model["context_length"] == 2048
    assert model["size"] > 0
    gone = http.post("/api/chat", json={"model": "shop:q4", "messages": [], "keep_alive": 0}).json()
    assert gone["done_reason"] == "unload"
    deadline = time.monotonic() + 5
    while http.get("/api/ps").json()["models"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert http.get("/api/ps").json()["models"] == []


def test_a_prompt_beyond_the_context_is_refused_with_numbers(http: httpx.Client) -> None:
    answer = http.post("/api/chat", json=chat("w " * 300, options={"num_ctx": 100}))
    assert answer.status_code == 400
    assert "302 tokens" in answer.json()["error"]
    assert "holds 100" in answer.json()["error"]


def test_tags_and_show_tell_what_the_store_holds(http: httpx.Client) -> None:
    (tag,) = http.get("/api/tags").json()["models"]
    assert tag["name"] == "shop:q4"
    assert len(tag["digest"]) == 64
    assert tag["details"]["quantization_level"] == "Q4_K_M"
    shown = http.post("/api/show", json={"name": "shop"})
    assert shown.status_code == 404
    shown = http.post("/api/show", json={"model": "shop:q4"}).json()
    assert shown["system"] == "Be short."
    assert shown["parameters"].splitlines()[0].split() == ["temperature", "0.25"]
    assert shown["model_info"]["llama.context_length"] == 2048
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert "tokenizer.chat_template" not in shown["model_info"]
    assert shown["capabilities"] == ["completion"]


def test_delete_removes_a_loaded_model(http: httpx.Client) -> None:
    http.post("/api/chat", json=chat("hello", stream=False))
    assert http.request("DELETE", "/api/delete", json={"model": "shop:q4"}).status_code == 200
    assert http.get("/api/tags").json() == {"models": []}
    again = http.request("DELETE", "/api/delete", json={"model": "shop:q4"})
    assert again.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "error"),
    [
        ("POST", "/api/chat", b"", 400, "missing request body"),
        ("POST", "/api/chat", b"{bad", 400, "not valid JSON"),
        ("POST", "/api/chat", b"[1]", 400, "body"),
        ("POST", "/api/chat", b'{"messages": []}', 400, "model is required"),
        ("POST", "/api/chat", b'{"model": "no such"}', 400, "not a valid model name"),
        ("POST", "/api/chat", b'{"model": "nope"}', 404, "model 'nope' not found"),
        ("POST", "/api/chat", b'{"model": "shop:q4", "messages": [{}]}', 400, "messages.0.role"),
        (
            "POST",
            "/api/generate",
            b'{"model": "shop:q4", "options": {"top_k": "x"}}',
            400,
            'option "top_k" must be of type int',
        ),
        ("POST", "/api/generate", b'{"model": "shop:q4", "keep_alive": "soon"}', 400, "keep_alive"),
        (
            "POST",
            "/api/generate",
            b'{"model": "shop:q4", "prompt": "a", "suffix": "b"}',
            400,
            "Infill is not supported",
        ),
        ("GET", "/api/chat", b"", 405, "does not take GET"),
        ("GET", "/api/nothing", b"", 404, "nothing at /api/nothing"),
    ],
)
def test_a_bad_request_is_one_clear_error(
    http: httpx.Client, method: str, path: str, content: bytes, status: int, error: str
) -> None:
    answer = http.request(method, path, content=content)
    assert answer.status_code == status
    assert error in answer.json()["error"]


def test_embeddings_have_unit_length_and_need_no_generation(
    http: httpx.Client, embedder: str
) -> None:
    body = http.post("/api/embed", json={"model": embedder, "input": ["a b", "c"]}).json()
    assert body["model"] == embedder
    assert body["prompt_eval_count"] == 3
    assert len(body["embeddings"]) == 2
    assert all(math.isclose(sum(x * x for x in v), 1.0) for v in body["embeddings"])
    cut = http.post("/api/embed", json={"model": embedder, "input": "a b", "dimensions": 3}).json()
    assert len(cut["embeddings"][0]) == 3
    assert math.isclose(sum(x * x for x in cut["embeddings"][0]), 1.0)
    old = http.post("/api/embeddings", json={"model": embedder, "prompt": "c"}).json()
    assert old["embedding"] == body["embeddings"][1]
    refused = http.post("/api/chat", json={**chat("x"), "model": embedder})
    assert refused.status_code == 400
    assert "does not support chat" in refused.json()["error"]


def test_an_input_beyond_the_context_is_refused_unless_it_may_be_cut(
    http: httpx.Client, embedder: str
) -> None:
    long = {"model": embedder, "input": "w " * 30}
    assert http.post("/api/embed", json=long).status_code == 400
    assert (
        http.post("/api/embed", json={**long, "truncate": True}).json()["prompt_eval_count"] == 16
    )


def test_a_modelfiles_messages_come_before_the_requests(daemon: Any, http: httpx.Client) -> None:
    gguf = resolve_model("shop:q4", home=daemon.home).gguf_path
    create_model("talk", f"FROM {gguf}\nMESSAGE user q\nMESSAGE assistant a", home=daemon.home)
    sent = seen(http.post("/api/chat", json={**chat("/dump", stream=False), "model": "talk"}))
    assert [m["content"] for m in sent["messages"]] == ["q", "a", "/dump"]


def test_null_is_the_same_as_a_field_that_was_not_sent(http: httpx.Client) -> None:
    turn = {"role": "user", "content": "hi", "images": None, "thinking": None, "tool_calls": None}
    body = {"model": "shop:q4", "messages": [turn], "stream": None, "options": None, "tools": None}
    lines = http.post(
        "/api/chat", json={**body, "logprobs": None, "format": None}
    ).text.splitlines()
    assert json.loads(lines[-1])["done"] is True
    called = {"role": "assistant", "content": None, "tool_calls": []}
    body["messages"] = [called, turn]
    assert http.post("/api/chat", json={**body, "stream": False}).status_code == 200
    asked = {"model": "shop:q4", "prompt": "hi", "suffix": None, "raw": None, "stream": False}
    assert http.post("/api/generate", json=asked).json()["response"] == "echo: hi"


def test_a_damaged_model_does_not_hide_the_others(http: httpx.Client, home: Home) -> None:
    broken = create_model("broken", "FROM shop:q4\nSYSTEM x", home=home)
    assert broken.config.digest != resolve_model("shop:q4", home=home).config.digest
    broken.store.path(broken.config.digest).unlink()
    models = {model["name"]: model for model in http.get("/api/tags").json()["models"]}
    assert models["shop:q4"]["details"]["family"] == "llama"
    assert models["broken:latest"]["details"] == {}


def test_raw_prompts_may_ask_for_log_probabilities(http: httpx.Client) -> None:
    body = {"model": "shop:q4", "prompt": "/dump", "raw": True, "stream": False, "logprobs": True}
    sent = json.loads(
        http.post("/api/generate", json={**body, "top_logprobs": 3}).json()["response"]
    )
    assert sent["n_probs"] == 3
    assert json.loads(http.post("/api/generate", json=body).json()["response"])["n_probs"] == 1
