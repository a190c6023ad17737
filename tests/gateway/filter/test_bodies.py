"""Every text that a model would read is looked at, and only those."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.gateway.filter.bodies import answer_texts, request_texts


def read(body: dict[str, Any]) -> dict[str, str]:
    return dict(request_texts(body))


def test_chat_messages_parts_and_calls() -> None:
    body = {
        "model": "not looked at",
        "user": "not looked at",
        "messages": [
            {"role": "system", "content": "one"},
            {
                "role": "user",
                "name": "not looked at",
                "content": [
                    {"type": "text", "text": "two "},
                    {"type": "text", "text": "three"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "text", "text": "four"},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "five",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"q": ["\\u6cd5", 7]}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "six"},
        ],
    }
    assert read(body) == {
        "messages[0].content": "one",
        "messages[1].content[0]": "two three",
        "messages[1].content[3]": "four",
        "messages[2].reasoning_content": "five",
        "messages[2].tool_calls[0].function.arguments (a name)": "q",
        "messages[2].tool_calls[0].function.arguments": "法",
        "messages[3].content": "six",
    }


def test_anthropic_messages_with_system_tools_and_documents() -> None:
    body = {
        "system": [{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "title": "two",
                        "context": "three",
                        "source": {"type": "text", "media_type": "text/plain", "data": "four"},
                    },
                    {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "five", "signature": "no"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"k": "six"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "seven"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t",
                        "content": [{"type": "text", "text": "eight"}],
                    },
                ],
            },
        ],
    }
    texts = [text for _, text in request_texts(body)]
    assert sorted(texts) == sorted(
        ["one", "two", "three", "four", "five", "k", "six", "seven", "eight"]
    )


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"prompt": "a", "suffix": "b"}, ["a", "b"]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        ({"prompt": [1, 2, 3]}, []),
        ({"prompt": [[1, 2], [3]]}, []),
        ({"input": "a", "dimensions": 3}, ["a"]),
        ({"input": ["a", "b"]}, ["a", "b"]),
        ({"query": "q", "documents": ["a", {"text": "b"}]}, ["q", "a", "b"]),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}]}, ["a"]),
        ({"instructions": "i", "input": [{"type": "function_call_output", "output": "o"}]},
         ["i", "o"]),
        ({"system": "s", "prompt": "p", "template": "t", "model": "m"}, ["s", "p", "t"]),
        ({"messages": "not a list"}, ["not a list"]),
        ({"messages": None, "prompt": 7, "input": {}}, []),
        ({}, []),
    ],
)  # fmt: skip
def test_other_bodies(body: dict[str, Any], texts: list[str]) -> None:
    assert [text for _, text in request_texts(body)] == texts


def test_a_body_nested_without_end_is_read_to_a_depth_and_no_further() -> None:
    deep: Any = "text"
    for _ in range(2000):
        deep = [deep]
    assert list(request_texts({"messages": deep})) == []
    arguments = json.loads("[" * 900 + "]" * 900)
    assert list(request_texts({"input": [{"role": "user", "input": arguments}]})) == []


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "a"}}, {"text": "b"}]},
         {"choices[0].message.content": "a", "choices[1].text": "b"}),
        ({"content": [{"type": "text", "text": "a"}], "role": "assistant"}, {"content[0]": "a"}),
        ({"output": [{"type": "message", "role": "assistant",
                      "content": [{"type": "output_text", "text": "a"}]}]},
         {"output[0].content[0]": "a"}),
        ({"message": {"role": "assistant", "content": "a"}}, {"message.content": "a"}),
        ({"response": "a", "thinking": "b"}, {"response": "a", "thinking": "b"}),
        ({"error": {"message": "no"}}, {}),
        ({"data": [{"embedding": [0.1]}]}, {}),
    ],
)  # fmt: skip
def test_answers(body: dict[str, Any], texts: dict[str, str]) -> None:
    assert dict(answer_texts(body)) == texts
