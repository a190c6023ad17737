"""POST /v1/responses: items in, items out, and the events between; the official client reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.conftest import RunningDaemon

from slipway.api.responses_items import Assembly
from slipway.core.paths import Home
from slipway.engine.client import Delta
from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf

TOOL: Any = {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture
def able(home: Home, tmp_path: Path) -> str:
    text = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": text})
    create_model("able", f"FROM {gguf}", home=home)
    return "able"


@pytest.fixture
def client(daemon: RunningDaemon, able: str) -> Iterator[openai.OpenAI]:
    url = f"{daemon.url}/v1"
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as made:
        yield made


def dumped(client: openai.OpenAI, **more: Any) -> dict[str, Any]:
    answer = client.responses.create(**{"model": "able", "input": "/dump", **more})
    found: dict[str, Any] = json.loads(answer.output_text)
    return found


def test_a_text_is_answered_by_one_message(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="able", input="hello there")
    assert answer.output_text == "echo: hello there"
    assert answer.status == "completed"
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 3)
    assert answer.usage.total_tokens == 5


def test_an_answer_that_reached_its_limit_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="able", input="/count 9", max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "w0 w1 w2"


def test_the_conversation_is_sent_as_items(client: openai.OpenAI) -> None:
    items: Any = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "find"},
                {"type": "input_text", "text": " it"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"n":1}'},
        {"type": "function_call", "call_id": "c2", "name": "find", "arguments": '{"n":2}'},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "two"}],
        },
        {"type": "message", "role": "user", "content": "/dump"},
    ]
    body = dumped(client, input=items, instructions="You are a shop.", temperature=0.5, top_p=0.4)
    calls = [
        {
            "id": f"c{n}",
            "type": "function",
            "function": {"name": "find", "arguments": f'{{"n":{n}}}'},
        }
        for n in (1, 2)
    ]
    assert body["messages"] == [
        {"role": "system", "content": "You are a shop."},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "find it"},
        {"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "user", "content": "/dump"},
    ]
    assert (body["temperature"], body["top_p"]) == (0.5, 0.4)


def test_tools_formats_and_effort_are_turned(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    body = dumped(
        client,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "find"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    )
    assert body["tools"][0]["function"]["name"] == "find"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    assert body["parallel_tool_calls"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "low"}
    assert body["response_format"]["json_schema"]["schema"] == schema


def test_a_tool_call_is_an_item(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="able", input='/tool find {"n": 1}', tools=[TOOL])
    (call,) = answer.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.call_id) == ("find", '{"n": 1}', "call_1")


@pytest.mark.parametrize("text", ["hello there", "/think", '/tool find {"n": 1}', "/count 0"])
def test_a_stream_ends_with_the_response_that_its_events_told(
    client: openai.OpenAI, text: str
) -> None:
    with client.responses.stream(model="able", input=text, tools=[TOOL]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    whole = client.responses.create(model="able", input=text, tools=[TOOL])
    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    added = [e for e in events if e.type == "response.output_item.added"]
    done = [e for e in events if e.type == "response.output_item.done"]
    assert len(added) == len(done) == len(whole.output)
    if text == "/think":
        assert final.output[0].type == "reasoning"
        assert final.output[0].content[0].text == "let me see"  # type: ignore[index]
        assert final.usage is not None
        assert final.usage.output_tokens_details.reasoning_tokens == 2


def test_structured_answers_are_parsed_by_the_client(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model="able", input='/call {"a":"b"}', text={"format": {"type": "json_object"}}
    ) as stream:
        assert json.loads(stream.get_final_response().output_text) == {"a": "b"}


def test_a_death_in_the_middle_is_told_in_the_stream(client: openai.OpenAI) -> None:
    stream = client.responses.create(model="able", input="/die", stream=True)
    last = list(stream)[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "engine stopped" in last.response.error.message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": []}, "input is required"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"content": "x"}]}, "input.0.role"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input_file"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
    ],
)
def test_what_cannot_be_done_is_named(
    daemon: RunningDaemon, able: str, more: dict[str, Any], message: str
) -> None:
    answer = httpx.post(f"{daemon.url}/v1/responses", json={"model": able, "input": "x", **more})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_truncation_auto_says_what_went(daemon: RunningDaemon, able: str) -> None:
    turns = [{"role": role, "content": "w " * 300} for role in ("user", "assistant") * 4]
    body = {"model": able, "input": [*turns, {"role": "user", "content": "last"}]}
    refused = httpx.post(f"{daemon.url}/v1/responses", json=body)
    assert refused.status_code == 400
    cut = httpx.post(f"{daemon.url}/v1/responses", json={**body, "truncation": "auto"}).json()
    assert cut["truncated"]["messages"] > 0


deltas = st.one_of(
    st.builds(Delta, text=st.text(min_size=1, max_size=4)),
    st.builds(lambda t: Delta(thinking=t), st.text(min_size=1, max_size=4)),
    st.builds(
        lambda i, a: Delta(
            tool_calls=[{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": a}}]
        ),
        st.integers(0, 2),
        st.text(max_size=3),
    ),
)


@given(st.lists(deltas, max_size=20))
def test_the_events_rebuild_the_items(pieces: list[Delta]) -> None:
    assembly = Assembly()
    events = [event for piece in pieces for event in assembly.add(piece)]
    events += assembly.end(cut=False)
    rebuilt: dict[int, str] = {}
    for name, fields in events:
        if name.endswith(".delta"):
            at = fields["output_index"]
            rebuilt[at] = rebuilt.get(at, "") + fields["delta"]
    for at, item in enumerate(assembly.items):
        text = item.get("arguments") or "".join(part["text"] for part in item.get("content", []))
        assert rebuilt.get(at, "") == text
        assert item["status"] == "completed"
    said = "".join(piece.text for piece in pieces)
    found = "".join(i["content"][0]["text"] for i in assembly.items if i["type"] == "message")
    assert found == said
