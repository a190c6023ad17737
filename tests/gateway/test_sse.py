from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.pricing import Usage
from slipway.gateway.sse import StreamReader, answer_estimate


def event(value: Any, end: str = "\n\n") -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}{end}".encode()


def piece(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, **more}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
TEXT = [event(piece("你")), event(piece("好\r\n")), event(piece("", finish_reason="stop"))]
DONE = b"data: [DONE]\n\n"


def feed(reader: StreamReader, chunks: list[bytes]) -> bytes:
    return b"".join(reader.feed(chunk) for chunk in chunks) + reader.end()


@given(st.lists(st.integers(1, 200), max_size=20), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_cut_gives_the_same_bytes_and_only_the_usage_event_is_stripped(
    cuts: list[int], strip: bool, line_end: str
) -> None:
    events = [b": ping\n\n", *TEXT, event(USAGE), DONE]
    events = [each.replace(b"\n", line_end.encode()) for each in events]
    whole = b"".join(events)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(whole[at : at + cut])
        at += cut
    chunks.append(whole[at:])
    reader = StreamReader(strip_usage=strip)
    expected = b"".join(e for e in events if not (strip and b'"usage"' in e))
    assert feed(reader, chunks) == expected
    assert reader.usage == Usage(3, 2)
    assert reader.done and reader.finished and not reader.error


def test_usage_that_comes_with_a_choice_is_read_and_kept() -> None:
    last = event(piece("x", finish_reason="stop") | {"usage": USAGE["usage"]})
    reader = StreamReader(strip_usage=True)
    assert feed(reader, [last]) == last
    assert reader.usage == Usage(3, 2)


@pytest.mark.parametrize("strip", [True, False])
def test_there_is_no_line_limit(strip: bool) -> None:
    large = event(piece("x" * 3_000_000))
    chunks = [large[i : i + 65_536] for i in range(0, len(large), 65_536)]
    reader = StreamReader(strip_usage=strip)
    first = reader.feed(chunks[0]) + reader.feed(chunks[1])
    assert first == large[: len(first)] and first, "a large event must flow before its end"
    assert reader.inside_event
    assert first + b"".join(reader.feed(c) for c in chunks[2:]) == large
    assert not reader.inside_event
    assert reader.generated() >= 750_000


def test_data_without_a_space_and_other_fields_are_understood() -> None:
    reader = StreamReader(strip_usage=False)
    data = b'event: x\nid: 1\ndata:{"choices":[{"text":"a"}]}\n\ndata:[DONE]'
    assert feed(reader, [data]) == data
    assert reader.done and reader.generated() == 1


def test_a_stream_that_breaks_off_holds_back_the_broken_event() -> None:
    reader = StreamReader(strip_usage=False)
    assert reader.feed(TEXT[0] + b'data: {"cho') == TEXT[0]
    assert not reader.inside_event and not reader.finished
    assert reader.generated() == 1


def test_errors_in_the_stream_are_seen() -> None:
    reader = StreamReader(strip_usage=True)
    data = event({"error": {"message": "out of memory"}})
    assert feed(reader, [data]) == data
    assert reader.error and not reader.finished


def test_reasoning_and_tool_arguments_are_generated_text() -> None:
    reader = StreamReader(strip_usage=False)
    calls = [{"index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}]
    deltas = [{"reasoning_content": "hm"}, {"tool_calls": calls}, {"role": "assistant"}]
    for delta in deltas:
        reader.feed(event({"choices": [{"delta": delta}]}))
    assert reader.generated() == 3


def test_whole_answers_without_usage_are_estimated() -> None:
    assert answer_estimate({"choices": [{"message": {"content": "x" * 40}}]}) == 10
    assert answer_estimate({"choices": [{"text": "x" * 40}]}) == 10
    assert answer_estimate({"data": []}) == 0
    assert answer_estimate(None) == 0
