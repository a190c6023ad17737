"""The exact lines that clients of Ollama and of OpenAI get, field by field in their order.

What differs from answer to answer (times, ids, durations) is replaced by its name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.api.conftest import RunningDaemon

from slipway.core.paths import Home
from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
_CHANGING = (
    (re.compile(r'"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"'), '"created_at":TIME'),
    (re.compile(r'"(\w+_duration)":\d+'), r'"\1":NS'),
    (re.compile(r'"created":\d{10}'), '"created":TIME'),
    (re.compile(r'"id":"(chatcmpl|cmpl)-[0-9a-f]{24}"'), r'"id":"\1-ID"'),
)
TAIL = '"total_duration":NS,"load_duration":NS,'


@pytest.fixture
def able(home: Home, tmp_path: Path) -> str:
    text = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": text})
    create_model("able", f"FROM {gguf}", home=home)
    return "able"


def lines(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[str, list[str]]:
    answer = http.post(path, json=body)
    text = answer.text
    for pattern, replacement in _CHANGING:
        text = pattern.sub(replacement, text)
    return answer.headers["content-type"], [line for line in text.split("\n") if line]


def ollama_line(piece: str, **_: Any) -> str:
    return f'{{"model":"able","created_at":TIME,{piece},"done":false}}'


def ollama_end(piece: str, reason: str, prompt: int, count: int) -> str:
    return (
        f'{{"model":"able","created_at":TIME,{piece},"done":true,"done_reason":"{reason}",{TAIL}'
        f'"prompt_eval_count":{prompt},"prompt_eval_duration":NS,"prompt_cached_count":0,'
        f'"eval_count":{count},"eval_duration":NS'
    )


def said(text: str, more: str = "") -> str:
    return f'"message":{{"role":"assistant","content":"{text}"{more}}}'


def test_a_streamed_chat_in_ollamas_lines(http: httpx.Client, able: str) -> None:
    body = {"model": able, "messages": [{"role": "user", "content": "a b"}]}
    kind, got = lines(http, "/api/chat", body)
    assert kind == "application/x-ndjson"
    assert got == [
        ollama_line(said("echo:")),
        ollama_line(said(" a")),
        ollama_line(said(" b")),
        ollama_end(said(""), "stop", 2, 3) + "}",
    ]


def test_thoughts_and_tool_calls_in_ollamas_lines(http: httpx.Client, able: str) -> None:
    body = {"model": able, "think": True, "messages": [{"role": "user", "content": "/think"}]}
    _, got = lines(http, "/api/chat", body)
    assert got[:3] == [
        ollama_line(said("", ',"thinking":"let me "')),
        ollama_line(said("", ',"thinking":"see"')),
        ollama_line(said("echo:")),
    ]
    call = {"role": "user", "content": '/tool find {"n":1}'}
    _, got = lines(http, "/api/chat", {"model": able, "tools": [TOOL], "messages": [call]})
    (calls,) = [line for line in got if "tool_calls" in line]
    wanted = (
        ',"tool_calls":[{"id":"call_1","function":{"index":0,"name":"find","arguments":{"n":1}}}]'
    )
    assert calls == ollama_end(said("", wanted), "stop", 3, 0) + "}"


def test_a_streamed_generation_in_ollamas_lines(http: httpx.Client, able: str) -> None:
    body = {"model": able, "prompt": "/count 3", "options": {"num_predict": 2}}
    _, got = lines(http, "/api/generate", body)
    *pieces, end = got
    assert pieces == [ollama_line('"response":"w0"'), ollama_line('"response":" w1"')]
    head, _, context = end.partition(',"context":')
    assert head == ollama_end('"response":""', "length", 2, 2)
    assert all(isinstance(token, int) for token in json.loads(context.removesuffix("}")))


def test_a_whole_chat_is_one_line_of_the_same_fields(http: httpx.Client, able: str) -> None:
    body = {"model": able, "stream": False, "messages": [{"role": "user", "content": "a"}]}
    kind, got = lines(http, "/api/chat", body)
    assert kind == "application/json; charset=utf-8"
    assert got == [ollama_end(said("echo: a"), "stop", 1, 2) + "}"]


def test_errors_of_both_faces(daemon: RunningDaemon, able: str) -> None:
    with daemon.client() as http:
        body = {"model": "nope", "messages": [{"role": "user", "content": "x"}]}
        _, (line,) = lines(http, "/api/chat", body)
        assert json.loads(line)["error"] == "model 'nope' not found"
        _, (line,) = lines(http, "/v1/chat/completions", body)
        error = json.loads(line)["error"]
        assert list(error)[:4] == ["message", "type", "param", "code"]
        assert (error["type"], error["param"]) == ("not_found_error", None)
        dying = {"model": able, "messages": [{"role": "user", "content": "/die"}]}
        _, got = lines(http, "/api/chat", dying)
        assert got[:2] == [ollama_line(said("I")), ollama_line(said(" am"))]
        assert list(json.loads(got[2]))[:2] == ["error", "code"]


def chunk(delta: str, reason: str = "null", more: str = "") -> str:
    return (
        'data: {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,'
        '"model":"able","system_fingerprint":"fp_slipway","choices":[{"index":0,'
        f'"delta":{{{delta}}},"logprobs":null,"finish_reason":{reason}}}]{more}}}'
    )


USAGE = (
    '"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,'
    '"prompt_tokens_details":{"cached_tokens":0}}'
)


def test_a_streamed_chat_in_openais_events(http: httpx.Client, able: str) -> None:
    body = {"model": able, "stream": True, "messages": [{"role": "user", "content": "a b"}]}
    kind, got = lines(http, "/v1/chat/completions", body)
    assert kind == "text/event-stream; charset=utf-8"
    assert got == [
        chunk('"role":"assistant","content":"echo:"'),
        chunk('"content":" a"'),
        chunk('"content":" b"'),
        chunk("", '"stop"'),
        "data: [DONE]",
    ]


def test_the_usage_event_has_no_choices(http: httpx.Client, able: str) -> None:
    body = {
        "model": able,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "a b"}],
    }
    _, got = lines(http, "/v1/chat/completions", body)
    assert got[-3] == chunk("", '"stop"', ',"usage":null')
    head = chunk("").partition('"choices"')[0]
    assert got[-2] == f'{head}"choices":[],{USAGE}}}'


def test_tool_calls_in_openais_events(http: httpx.Client, able: str) -> None:
    call = {"role": "user", "content": '/tool find {"n":1}'}
    body = {"model": able, "stream": True, "tools": [TOOL], "messages": [call]}
    _, got = lines(http, "/v1/chat/completions", body)
    first = '"id":"call_1","type":"function","function":{"name":"find","arguments":""}'
    assert got == [
        chunk(f'"role":"assistant","content":"","tool_calls":[{{"index":0,{first}}}]'),
        chunk('"tool_calls":[{"index":0,"function":{"arguments":"{\\"n"}}]'),
        chunk('"tool_calls":[{"index":0,"function":{"arguments":"\\":1}"}}]'),
        chunk("", '"tool_calls"'),
        "data: [DONE]",
    ]


def test_whole_answers_in_openais_objects(http: httpx.Client, able: str) -> None:
    body = {"model": able, "messages": [{"role": "user", "content": "a b"}]}
    _, got = lines(http, "/v1/chat/completions", body)
    assert got == [
        '{"id":"chatcmpl-ID","object":"chat.completion","created":TIME,"model":"able",'
        '"system_fingerprint":"fp_slipway","choices":[{"index":0,"message":{"role":"assistant",'
        f'"content":"echo: a b"}},"finish_reason":"stop","logprobs":null}}],{USAGE}}}'
    ]
    _, got = lines(http, "/v1/completions", {"model": able, "prompt": "a b"})
    assert got == [
        '{"id":"cmpl-ID","object":"text_completion","created":TIME,"model":"able",'
        '"system_fingerprint":"fp_slipway","choices":[{"index":0,"text":"echo: a b",'
        f'"logprobs":null,"finish_reason":"stop"}}],{USAGE}}}'
    ]
