"""The official `anthropic` client against the daemon, and the bytes that it gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.api.conftest import shop as shop
from tests.api.conftest import start_daemon as start_daemon

from slipway.api.anthropic_shapes import CountBody, to_messages
from slipway.core.errors import UsageError
from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf

TOOL = {
    "name": "find",
    "description": "Find it",
    "input_schema": {"type": "object", "properties": {"n": {"type": "string"}}},
}


@pytest.fixture
def daemon(start_daemon: StartDaemon, shop: str, tmp_path: Path) -> RunningDaemon:
    running = start_daemon()
    able = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": able})
    create_model("able", f"FROM {gguf}", home=running.home)
    return running


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url, api_key="any", max_retries=0) as made:
        yield made


def ask(text: Any) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_an_answer_with_its_usage(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="shop:q4", max_tokens=50, messages=ask("hello"), system="Be kind."
    )
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "end_turn")
    assert answer.content[0].text == "echo: hello"  # type: ignore[union-attr]
    assert answer.usage.input_tokens == 3
    assert answer.usage.output_tokens == 2
    cut = client.messages.create(model="shop:q4", max_tokens=3, messages=ask("/count 9"))
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def test_what_is_sent_to_the_engine(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="able",
        max_tokens=500,
        extra_body={"temperature": 0.5, "top_k": 7},
        stop_sequences=["x"],
        system=[{"type": "text", "text": "S"}],
        tools=[TOOL],  # type: ignore[list-item]
        tool_choice={"type": "tool", "name": "find"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[
            {"role": "user", "content": "find it"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "ok"},
                    {"type": "tool_use", "id": "t1", "name": "find", "input": {"n": "1"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
                    {"type": "text", "text": "/dump"},
                ],
            },
        ],
    )
    sent = json.loads(answer.content[0].text)  # type: ignore[union-attr]
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert sent["messages"][2]["reasoning_content"] == "hm"
    assert sent["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"n":"1"}'
    assert sent["messages"][3] == {"role": "tool", "tool_call_id": "t1", "content": "42"}
    assert sent["tools"][0]["function"]["parameters"] == TOOL["input_schema"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}
    assert (sent["temperature"], sent["top_k"], sent["n_predict"]) == (0.5, 7, 500)
    assert sent["stop"] == ["x"]


def test_a_stream_gives_the_events_in_their_order(
    client: anthropic.Anthropic, daemon: RunningDaemon
) -> None:
    with client.messages.stream(model="able", max_tokens=50, messages=ask("/think")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.startswith("echo:")
    assert [block.type for block in final.content] == ["thinking", "text"]
    body = {"model": "shop:q4", "max_tokens": 9, "messages": ask("hi"), "stream": True}
    raw = httpx.post(f"{daemon.url}/v1/messages", json=body).text
    kinds = [line.removeprefix("event: ") for line in raw.splitlines() if line[:6] == "event:"]
    assert kinds == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: ")]
    assert all(event["type"] == kind for event, kind in zip(events, kinds, strict=True))
    assert events[2] == {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    }
    assert events[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[6]["usage"]["output_tokens"] == 2


def test_tokens_are_counted_as_the_prompt_is_rendered(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="shop:q4", messages=ask("one two three"))
    answer = client.messages.create(model="shop:q4", max_tokens=5, messages=ask("one two three"))
    assert counted.input_tokens == answer.usage.input_tokens == 5  # with the model's own system


def test_errors_have_anthropics_shape(client: anthropic.Anthropic, daemon: RunningDaemon) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="gone", max_tokens=5, messages=ask("x"))
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="does not support tools"):
        client.messages.create(
            model="shop:q4",
            max_tokens=5,
            messages=ask("x"),
            tools=[TOOL],  # type: ignore[list-item]
        )
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model="shop:q4", max_tokens=0, messages=ask("x"))
    with pytest.raises(anthropic.BadRequestError, match="the context holds 10"):
        client.messages.create(
            model="shop:q4",
            max_tokens=5,
            messages=ask("w " * 50),
            extra_body={"options": {"num_ctx": 10}},
        )
    body = {"model": "shop:q4", "max_tokens": 9, "messages": ask("/die"), "stream": True}
    raw = httpx.post(f"{daemon.url}/v1/messages", json=body).text
    last = json.loads(raw.strip().splitlines()[-1][6:])
    assert last["type"] == "error" and last["error"]["code"] == "engine.lost"
    assert last["request_id"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"type": "document"}], "messages.0.content.0: a block of type `document`"),
        (
            [{"type": "image", "source": {"type": "url"}}],
            "only pictures as base64",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_its_place(content: list[Any], named: str) -> None:
    body = CountBody.model_validate({"messages": [{"role": "user", "content": content}]})
    with pytest.raises(UsageError, match=named):
        to_messages(body)


def test_tools_of_anthropics_servers_are_refused(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        client.messages.create(
            model="able",
            max_tokens=5,
            messages=ask("x"),
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )
