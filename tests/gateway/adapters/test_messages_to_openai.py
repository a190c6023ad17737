"""A client that speaks Anthropic's protocol at a channel that speaks OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.adapters.adapters_for_tests import Between, cut, data_of, feed, send, sse

from slipway.gateway.adapters.messages_answer import MessagesFromChat
from slipway.gateway.pricing import Usage
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream

MESSAGES = "/v1/messages"


def test_a_conversation_is_translated_and_what_is_lost_is_named() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    body = {
        "model": "asked",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Brief.", "cache_control": {"type": "ephemeral"}}],
        "stop_sequences": ["END"],
        "top_k": 4,
        "metadata": {"user_id": "u"},
        "tools": [
            {"name": "now", "input_schema": {"type": "object"}},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "messages": [
            {"role": "user", "content": [{"type": "image", "source": source}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "now", "input": {"zone": "上海"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "noon"},
                    {"type": "text", "text": "Thanks"},
                ],
            },
        ],
    }
    sent, got = send("openai", MESSAGES, body)
    assert sent.url == "https://there.test/v1/chat/completions"
    function = {"name": "now", "arguments": '{"zone":"上海"}'}
    url = {"url": "data:image/png;base64,AAAA"}
    assert got == {
        "model": "upstream-name",
        "max_tokens": 50,
        "stop": ["END"],
        "user": "u",
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "tools": [
            {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
        ],
        "messages": [
            {"role": "system", "content": "Brief."},
            {"role": "user", "content": [{"type": "image_url", "image_url": url}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "t1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "noon"},
            {"role": "user", "content": "Thanks"},
        ],
    }
    assert set(sent.dropped) == {
        "system.0.cache_control",
        "top_k",
        "tools.1",
        "messages.1.content.0",
    }


def test_openais_own_service_gets_the_new_name_of_the_limit() -> None:
    body = {"model": "m", "max_tokens": 5, "messages": []}
    _, got = send("openai", MESSAGES, body, url="https://api.openai.com")
    assert got["max_completion_tokens"] == 5 and "max_tokens" not in got


def test_a_slipway_channel_has_messages_itself() -> None:
    body = {"model": "upstream-name", "max_tokens": 5, "messages": [], "new": 1}
    sent, got = send("slipway", MESSAGES, body)
    assert got == body and sent.url.endswith("/v1/messages")


def chunk(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c1", "model": "m", "choices": [choice]}


def call(index: int, arguments: str, **more: object) -> dict[str, object]:
    return {"index": index, **more, "function": {"name": f"f{index}", "arguments": arguments}}


STREAM = (
    sse(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "嗯"}),
        chunk({"content": "你"}),
        chunk({"content": "好"}),
        chunk({"tool_calls": [call(0, "", id="a")]}),
        chunk({"tool_calls": [call(1, '{"x":', id="b"), call(0, "{}")]}),
        chunk({"tool_calls": [call(1, "1}")]}),
        chunk({}, "tool_calls"),
        {
            "id": "c1",
            "choices": [],
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 20},
            },
        },
    )
    + b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(1, 120), max_size=30))
def test_a_stream_is_translated_alike_however_it_is_cut(cuts: list[int]) -> None:
    translator = MessagesFromChat()
    out = feed(translator, cut(STREAM, cuts))
    assert out == feed(MessagesFromChat(), [STREAM])
    events = data_of(out)
    kinds = [(e["type"].removeprefix("content_block_"), e.get("index")) for e in events]
    assert kinds == [
        ("message_start", None),
        *[("start", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("start", 3), ("delta", 3), ("delta", 2), ("delta", 3)],
        *[("stop", 2), ("stop", 3)],
        *[("message_delta", None), ("message_stop", None)],
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == {
        "input_tokens": 10,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 0,
        "output_tokens": 9,
    }
    assert translator.usage == Usage(30, 9, 20) and translator.done


def test_a_stream_that_breaks_off_has_no_ending() -> None:
    translator = MessagesFromChat()
    out = feed(translator, [STREAM[: STREAM.index(b'"tool_calls"')]])
    assert b"message_stop" not in out and not translator.finished


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream(models=["upstream-name"]) as server:
        yield server


def test_the_anthropic_client_chats_and_streams_at_an_openai_channel(
    upstream: FakeUpstream,
) -> None:
    between = Between("openai", upstream.url)
    client = between.anthropic()
    asked = [{"role": "user", "content": "good 早上"}]
    answer = client.messages.create(model="asked", max_tokens=9, messages=asked)  # type: ignore[arg-type]
    assert answer.content[0].type == "text" and answer.content[0].text == "good 早上"
    assert answer.stop_reason == "end_turn" and answer.usage.output_tokens == 2
    with client.messages.stream(model="asked", max_tokens=9, messages=asked) as stream:  # type: ignore[arg-type]
        assert "".join(stream.text_stream) == "good 早上"
        assert stream.get_final_message().usage.input_tokens == 2
    assert between.usage == Usage(2, 2)


def test_the_anthropic_client_hears_errors_of_an_openai_channel(upstream: FakeUpstream) -> None:
    error = json.dumps({"error": {"message": "slow down", "code": "x"}}).encode()
    upstream.script(FakeAnswer(status=429, body=error))
    client = Between("openai", upstream.url).anthropic()
    with pytest.raises(anthropic.RateLimitError, match="slow down"):
        client.messages.create(
            model="asked", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        )


def test_the_anthropic_client_assembles_calls_that_grow_at_once(upstream: FakeUpstream) -> None:
    upstream.script(FakeAnswer(body=STREAM, content_type="text/event-stream"))
    with (
        Between("openai", upstream.url)
        .anthropic()
        .messages.stream(
            model="asked", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as stream
    ):
        blocks = stream.get_final_message().content
    assert [block.type for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in blocks if block.type == "tool_use"] == [{}, {"x": 1}]
