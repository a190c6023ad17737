from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.adapters.adapters_for_tests import cut, feed, send, sse, target

from slipway.core.errors import UsageError
from slipway.gateway.adapters import ADAPTERS, PRESETS, ChannelOptions, check_headers, endpoint_url
from slipway.gateway.pricing import Usage

CHAT = "/v1/chat/completions"
BODY = {
    "model": "upstream-name",
    "messages": [{"role": "user", "content": "hi"}],
    "vendor": {"x": 1},
}


def test_a_body_that_needs_no_change_goes_through_byte_for_byte() -> None:
    raw = json.dumps(BODY, indent=3).encode()
    sent = ADAPTERS["openai"].request(target("https://a.test"), CHAT, raw, BODY, None)
    assert sent.body == raw and sent.dropped == ()
    assert "Authorization" not in sent.headers


def test_the_model_is_mapped_and_unknown_fields_are_kept() -> None:
    sent, body = send("openai", CHAT, {**BODY, "model": "asked"})
    assert body == BODY
    assert sent.url == "https://there.test/v1/chat/completions"
    assert sent.headers["Authorization"] == "Bearer upstream-key"


def test_usage_of_a_stream_is_asked_for_and_marked_for_stripping() -> None:
    sent, body = send("openai", CHAT, {**BODY, "stream": True, "stream_options": {"other": 1}})
    assert body["stream_options"] == {"other": 1, "include_usage": True} and sent.strip_usage
    asked = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    assert not send("openai", CHAT, asked)[0].strip_usage


@pytest.mark.parametrize(
    ("preset", "url"),
    [
        ("zhipu", "https://open.bigmodel.cn/api/paas/v4/chat/completions"),
        ("volcengine", "https://ark.cn-beijing.volces.com/api/v3/chat/completions"),
        ("qianfan", "https://qianfan.baidubce.com/v2/chat/completions"),
        ("dashscope", "https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions"),
        ("deepseek", "https://api.deepseek.com/v1/chat/completions"),
    ],
)
def test_a_version_in_the_address_takes_the_place_of_v1(preset: str, url: str) -> None:
    assert endpoint_url(PRESETS[preset].base_url, CHAT) == url


def test_azure_puts_deployment_and_version_into_the_address_and_the_key_into_api_key() -> None:
    sent, _ = send("azure", CHAT, BODY, url="https://res.openai.azure.com")
    assert sent.url == (
        "https://res.openai.azure.com/openai/deployments/upstream-name/chat/completions"
        "?api-version=2024-10-21"
    )
    assert sent.headers["api-key"] == "upstream-key" and "Authorization" not in sent.headers
    newer = send(
        "azure",
        CHAT,
        BODY,
        url="https://r.test",
        options=ChannelOptions(api_version="2025-01-01&x=1"),
    )[0]
    assert newer.url.endswith("?api-version=2025-01-01%26x%3D1")


def test_azures_own_v1_needs_no_deployment() -> None:
    sent, _ = send("azure", CHAT, BODY, url="https://res.openai.azure.com/openai")
    assert sent.url == "https://res.openai.azure.com/openai/v1/chat/completions"


def test_a_deployments_name_cannot_leave_its_place_in_the_address() -> None:
    way_out = target("https://r.test", "../../x?y")
    sent = ADAPTERS["azure"].request(way_out, CHAT, b"{}", dict(BODY), None)
    assert "/deployments/..%2F..%2Fx%3Fy/chat" in sent.url


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"content-LENGTH": "0"},
        {"Authorization": "Bearer x"},
        {"x-api-key": "x"},
        {"Transfer-Encoding": "chunked"},
        {"Proxy-Authorization": "x"},
        {"X-Fine": "a\r\nHost: evil.test"},
        {"X-Bad\r\nHost": "evil"},
        {"X Space": "x"},
        {"X-Name": "中"},
    ],
)
def test_headers_that_speak_for_the_gateway_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        send("openai", CHAT, BODY, options=ChannelOptions(headers=headers))


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=3))
def test_no_accepted_header_can_break_its_line(headers: dict[str, str]) -> None:
    try:
        check_headers(headers)
    except UsageError:
        return
    text = "".join(f"{name}: {value}" for name, value in headers.items())
    assert "\r" not in text and "\n" not in text and "\0" not in text


def test_a_channels_header_replaces_ours_whatever_its_case() -> None:
    sent, _ = send("openai", CHAT, BODY, options=ChannelOptions(headers={"user-agent": "mine"}))
    assert [v for k, v in sent.headers.items() if k.lower() == "user-agent"] == ["mine"]


def test_an_endpoint_the_kind_cannot_serve_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="ollama"):
        send("ollama", "/v1/moderations", BODY)


def test_usage_of_an_answer_names_cached_and_reasoning_tokens() -> None:
    usage = {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 1920},
        "completion_tokens_details": {"reasoning_tokens": 192},
    }
    body = json.dumps({"choices": [], "usage": usage}, indent=1).encode()
    answer = ADAPTERS["openai"].answer(CHAT, 200, body)
    assert answer.body == body
    assert answer.usage == Usage(2006, 300, 1920, reasoning=192)


@given(st.lists(st.integers(1, 90), max_size=20))
def test_a_stream_passes_unchanged_however_it_is_cut(cuts: list[int]) -> None:
    piece = {"choices": [{"index": 0, "delta": {"content": "你好"}, "finish_reason": "stop"}]}
    whole = sse(piece, {"odd": True}) + b"data: [DONE]\n\n"
    reader = ADAPTERS["openai"].stream(CHAT, strip_usage=True)
    assert feed(reader, cut(whole, cuts)) == whole
    assert reader.text == "你好" and reader.finished and reader.done
