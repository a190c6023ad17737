from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.adapters.adapters_for_tests import Between, cut, data_of, feed, send, sse, target

from slipway.core.errors import UsageError
from slipway.gateway.adapters import ADAPTERS
from slipway.gateway.adapters.gemini_answer import ChatFromGemini
from slipway.gateway.pricing import Usage
from slipway.testing.fake_gemini import FakeGemini

CHAT = "/v1/chat/completions"
GOOGLE = "https://generativelanguage.googleapis.com"
WEATHER = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
USED = Usage(20, 10, 5, reasoning=4)


def test_a_conversation_with_tools_and_pictures_is_translated() -> None:
    function = {"name": "get_weather", "arguments": '{"city": "北京"}'}
    signed = {"google": {"thought_signature": "c2ln"}}
    body = {
        "model": "asked",
        "max_completion_tokens": 64,
        "stop": ["END"],
        "temperature": 0.5,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "tools": [{"type": "function", "function": WEATHER}],
        "logit_bias": {"1": 2},
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "https://a.test/x.png"}},
                ],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "function": function, "extra_content": signed}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
    }
    sent, got = send("gemini", CHAT, body, url=GOOGLE)
    assert sent.url == f"{GOOGLE}/v1beta/models/upstream-name:generateContent"
    assert sent.headers["x-goog-api-key"] == "upstream-key" and "Authorization" not in sent.headers
    only = {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}
    declared = {
        "name": "get_weather",
        "description": "",
        "parametersJsonSchema": WEATHER["parameters"],
    }
    assert got == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "temperature": 0.5,
            "maxOutputTokens": 64,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
        },
        "tools": [{"functionDeclarations": [declared]}],
        "toolConfig": {"functionCallingConfig": only},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "What?"},
                    {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {"name": "get_weather", "args": {"city": "北京"}},
                        "thoughtSignature": "c2ln",
                    }
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "get_weather", "response": {"result": "sunny"}}}
                ],
            },
        ],
    }
    assert set(sent.dropped) == {"messages.1.content.2", "logit_bias"}


def test_a_result_of_an_unknown_call_is_refused_by_its_path() -> None:
    body = {"model": "m", "messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}
    with pytest.raises(UsageError, match=r"messages\.0\.tool_call_id"):
        send("gemini", CHAT, body)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), max_size=4))
def test_no_field_of_the_client_is_lost_silently(fields: dict[str, int]) -> None:
    fields = {f"vendor_{name}": value for name, value in fields.items()}
    sent, _ = send("gemini", CHAT, {"model": "m", "messages": [], **fields})
    assert set(sent.dropped) == set(fields)


def test_a_models_name_cannot_leave_its_place_in_the_address() -> None:
    body = {"model": "m", "messages": []}
    way_out = target(GOOGLE, "../x:y?")
    sent = ADAPTERS["gemini"].request(way_out, CHAT, b"", body, None)
    assert sent.url == f"{GOOGLE}/v1beta/models/..%2Fx%3Ay%3F:generateContent"


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ({"candidates": [{"finishReason": "SAFETY"}]}, "content_filter"),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, "length"),
    ],
)
def test_why_an_answer_ended_is_told_in_openais_words(said: dict[str, object], finish: str) -> None:
    answer = ADAPTERS["gemini"].answer(CHAT, 200, json.dumps(said).encode())
    assert json.loads(answer.body)["choices"][0]["finish_reason"] == finish
    stream = data_of(feed(ChatFromGemini(strip_usage=True, created=1), [sse(said)]))
    assert stream[0]["choices"][0]["finish_reason"] == finish and stream[-1] == "[DONE]"


def part(finish: str | None = None, **said: object) -> dict[str, object]:
    more = {"finishReason": finish} if finish else {}
    candidate = {"content": {"role": "model", "parts": [said]}, **more}
    return {"candidates": [candidate], "responseId": "r", "modelVersion": "g"}


STREAM = sse(
    part(text="嗯", thought=True),
    part(text="你好\n\n"),
    part(functionCall={"name": "a", "args": {}}),
    part("STOP", functionCall={"name": "b", "args": {"x": 1}})
    | {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}},
)


@given(st.lists(st.integers(1, 120), max_size=30), st.booleans())
def test_a_stream_is_translated_alike_however_it_is_cut(cuts: list[int], crlf: bool) -> None:
    whole = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    translator = ChatFromGemini(strip_usage=False, created=1)
    events = data_of(feed(translator, cut(whole, cuts)))
    deltas = [event["choices"][0]["delta"] for event in events[:4]]
    assert deltas[0] == {"role": "assistant", "content": "", "reasoning_content": "嗯"}
    assert deltas[1] == {"content": "你好\n\n"}
    calls = [delta["tool_calls"][0] for delta in deltas[2:]]
    assert [(c["index"], c["id"], c["function"]["arguments"]) for c in calls] == [
        (0, "call_r_0_0", "{}"),
        (1, "call_r_0_1", '{"x":1}'),
    ]
    assert events[3]["choices"][0]["finish_reason"] == "tool_calls"
    assert events[4]["usage"]["total_tokens"] == 5 and events[5] == "[DONE]"
    assert translator.usage == Usage(3, 2) and translator.done


def test_a_stream_that_breaks_off_has_no_ending() -> None:
    translator = ChatFromGemini(strip_usage=True, created=1)
    out = feed(translator, [STREAM[: STREAM.index(b'"STOP"')]])
    assert b"[DONE]" not in out and not translator.finished and translator.generated() > 0


@pytest.fixture
def upstream() -> Iterator[FakeGemini]:
    with FakeGemini() as server:
        yield server


def test_the_openai_client_chats_with_a_gemini_channel(upstream: FakeGemini) -> None:
    between = Between("gemini", upstream.url)
    answer = between.openai().chat.completions.create(
        model="asked", messages=[{"role": "user", "content": "你好"}]
    )
    assert answer.choices[0].message.content == "你好"
    assert answer.choices[0].finish_reason == "stop"
    assert between.usage == USED


def test_the_openai_client_streams_and_calls_tools_there(upstream: FakeGemini) -> None:
    between = Between("gemini", upstream.url)
    chunks = list(
        between.openai().chat.completions.create(
            model="asked",
            messages=[{"role": "user", "content": "Weather?"}],
            tools=[{"type": "function", "function": WEATHER}],  # type: ignore[typeddict-item]
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    calls = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or []]
    assert calls[0].function is not None
    assert json.loads(calls[0].function.arguments or "") == {"city": "北京"}
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 30
    assert between.usage == USED


def test_the_openai_client_embeds_there(upstream: FakeGemini) -> None:
    between = Between("gemini", upstream.url)
    answer = between.openai().embeddings.create(model="asked", input=["ab", "abc"])
    assert [row.embedding for row in answer.data] == [[2.0, 1.0], [3.0, 1.0]]
    assert between.usage is None
    assert between.sent is not None and between.sent.dropped == ("encoding_format",)


def test_the_openai_client_hears_errors_of_a_gemini_channel(upstream: FakeGemini) -> None:
    client = Between("gemini", upstream.url, "wrong").openai()
    with pytest.raises(openai.BadRequestError, match="API key not valid"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
