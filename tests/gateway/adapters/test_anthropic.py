from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from tests.gateway.adapters.adapters_for_tests import (
    Between,
    cut,
    data_of,
    feed,
    send,
    sse,
    target,
)

from slipway.core.errors import UsageError
from slipway.gateway.adapters import ADAPTERS
from slipway.gateway.adapters.anthropic_answer import ChatFromMessages
from slipway.gateway.pricing import Usage
from slipway.testing.fake_messages import FakeMessages

CHAT = "/v1/chat/completions"
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
USED = Usage(120, 7, 100, cache_write=8)
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def test_a_conversation_with_tools_and_pictures_is_translated() -> None:
    body = {
        "model": "asked",
        "max_tokens": 64,
        "stop": "END",
        "temperature": 1.5,
        "user": "u-1",
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "tools": [{"type": "function", "function": WEATHER}],
        "logit_bias": {"1": 2},
        "n": 1,
        "seed": 7,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": PICTURE}},
                    {"type": "image_url", "image_url": {"url": "https://a.test/x.png"}},
                    {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "北京"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
            {"role": "user", "content": "And now?"},
        ],
    }
    sent, got = send("anthropic", CHAT, body, url="https://api.anthropic.com")
    assert sent.url == "https://api.anthropic.com/v1/messages"
    assert sent.headers["x-api-key"] == "upstream-key"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in sent.headers
    assert got == {
        "model": "upstream-name",
        "max_tokens": 64,
        "system": [{"type": "text", "text": "Be brief."}],
        "stop_sequences": ["END"],
        "temperature": 1,
        "metadata": {"user_id": "u-1"},
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "tools": [
            {
                "name": "get_weather",
                "description": "The weather of a city",
                "input_schema": WEATHER["parameters"],
            }
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": "iVBORw0KGgo=",
                        },
                    },
                    {"type": "image", "source": {"type": "url", "url": "https://a.test/x.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": "call_1",
                        "name": "get_weather",
                        "input": {"city": "北京"},
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    }
    assert set(sent.dropped) == {"messages.1.content.3", "temperature", "logit_bias", "seed"}


def test_arguments_that_are_no_json_are_refused_by_their_path() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{oops"}}
    body = {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}
    with pytest.raises(UsageError, match=r"messages\.0\.tool_calls\.0\.function\.arguments"):
        send("anthropic", CHAT, body)


def test_effort_and_schema_go_into_output_config() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    _, got = send(
        "anthropic",
        CHAT,
        {"model": "m", "messages": [], "reasoning_effort": "high", "response_format": form},
    )
    schema = {"type": "json_schema", "schema": {"type": "object"}}
    assert got["output_config"] == {"effort": "high", "format": schema}


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), max_size=4))
def test_no_field_of_the_client_is_lost_silently(fields: dict[str, int]) -> None:
    fields = {f"vendor_{name}": value for name, value in fields.items()}
    sent, got = send("anthropic", CHAT, {"model": "m", "messages": [], **fields})
    assert set(fields) <= set(got) | set(sent.dropped)


def test_an_anthropic_body_passes_byte_for_byte() -> None:
    raw = b'{ "model":"upstream-name",\n "max_tokens": 5, "messages": [], "new_field": [1, 2] }'
    adapter = ADAPTERS["anthropic"]
    sent = adapter.request(target("https://a.test"), "/v1/messages", raw, json.loads(raw), "k")
    assert sent.body == raw and sent.dropped == ()


def start(kind: str = "text", index: int = 0, **more: object) -> dict[str, object]:
    block = {"type": kind, **more}
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(kind: str, index: int = 0, **more: object) -> dict[str, object]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **more}}


MESSAGE = {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 9, "output_tokens": 1}}
STREAM = sse(
    {"type": "message_start", "message": MESSAGE},
    start("thinking", thinking=""),
    {"type": "ping"},
    delta("thinking_delta", thinking="嗯"),
    delta("signature_delta", signature="abc"),
    {"type": "content_block_stop", "index": 0},
    start("text", 1, text=""),
    delta("text_delta", 1, text="你好\n\n"),
    {"type": "content_block_stop", "index": 1},
    start("tool_use", 2, id="toolu_1", name="now", input={}),
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
    named=True,
)


@given(st.lists(st.integers(1, 120), max_size=30), st.booleans())
def test_a_stream_is_translated_alike_however_it_is_cut(cuts: list[int], crlf: bool) -> None:
    whole = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    translator = ChatFromMessages(strip_usage=False, created=1)
    events = data_of(feed(translator, cut(whole, cuts)))
    deltas = [e["choices"][0]["delta"] for e in events[:-2]]
    call = {"index": 0, "id": "toolu_1", "type": "function"}
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "嗯"},
        {"content": "你好\n\n"},
        {"tool_calls": [{**call, "function": {"name": "now", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert events[-3]["choices"][0]["finish_reason"] == "tool_calls"
    assert events[-2]["usage"]["total_tokens"] == 14
    assert events[-1] == "[DONE]"
    assert translator.usage == Usage(9, 5) and translator.finished and translator.done


@given(st.lists(st.integers(1, 120), max_size=30))
def test_a_stream_for_its_own_client_passes_unchanged(cuts: list[int]) -> None:
    reader = ADAPTERS["anthropic"].stream("/v1/messages", strip_usage=False)
    assert feed(reader, cut(STREAM, cuts)) == STREAM
    assert reader.usage == Usage(9, 5) and reader.text == "嗯你好\n\n" and reader.done


def test_a_stream_that_breaks_off_is_not_finished_and_its_usage_is_counted() -> None:
    reader = ADAPTERS["anthropic"].stream(CHAT, strip_usage=True)
    reader.feed(STREAM[: STREAM.index(b"event: message_delta")])
    assert not reader.finished and not reader.error
    assert reader.usage is not None and reader.usage.estimated and reader.usage.prompt == 9
    assert reader.usage.completion >= 3


def test_an_error_event_is_told_as_openai_tells_it() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reader = ADAPTERS["anthropic"].stream(CHAT, strip_usage=True)
    told = data_of(feed(reader, [sse(error, named=True)]))[0]["error"]
    assert reader.error and told["message"] == "Overloaded" and told["code"] == "overloaded_error"


@pytest.fixture
def upstream() -> Iterator[FakeMessages]:
    with FakeMessages() as server:
        yield server


def through(upstream: FakeMessages, key: str = "upstream-key") -> tuple[OpenAI, Between]:
    between = Between("anthropic", upstream.url, key)
    return between.openai(), between


def test_the_openai_client_chats_with_an_anthropic_channel(upstream: FakeMessages) -> None:
    client, transport = through(upstream)
    answer = client.chat.completions.create(
        model="asked", messages=[{"role": "user", "content": "你好"}]
    )
    message = answer.choices[0].message
    assert message.content == "你好" and answer.choices[0].finish_reason == "stop"
    assert message.model_extra == {"reasoning_content": "Let me see."}
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 100
    assert transport.usage == USED


def test_the_openai_client_streams_and_calls_tools_there(upstream: FakeMessages) -> None:
    client, transport = through(upstream)
    arguments = ""
    finish = None
    for chunk in client.chat.completions.create(
        model="asked",
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[{"type": "function", "function": WEATHER}],
        stream=True,
    ):
        assert chunk.usage is None
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            arguments += call.function.arguments or ""
    assert json.loads(arguments) == {"city": "北京"} and finish == "tool_calls"
    assert transport.usage == USED


def test_the_openai_client_hears_errors_of_an_anthropic_channel(upstream: FakeMessages) -> None:
    client, _ = through(upstream, key="wrong")
    with pytest.raises(openai.AuthenticationError, match="invalid x-api-key"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


def test_the_anthropic_client_passes_through(upstream: FakeMessages) -> None:
    transport = Between("anthropic", upstream.url)
    client = transport.anthropic()
    with client.messages.stream(
        model="asked", max_tokens=50, messages=[{"role": "user", "content": "hi there"}]
    ) as stream:
        assert "".join(stream.text_stream) == "hi there"
    assert transport.usage == USED
