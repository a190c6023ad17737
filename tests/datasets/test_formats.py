"""Rows of every format and kind: what they become, and which faults are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.core.errors import InputError, SlipwayError
from slipway.datasets import Sample, open_samples
from slipway.datasets.load import read_file
from slipway.datasets.source import DataSource

TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}}}


def read(folder: Path, *rows: Any, name: str = "rows.jsonl") -> list[Sample]:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return list(open_samples([DataSource(path=str(path))]))


def roles(sample: Sample) -> list[str]:
    return [message.role for message in sample.messages]


def test_openai_tool_calls_are_parsed_and_results_keep_their_place(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function"}
    call["function"] = {"name": "stock", "arguments": '{"item": "灯"}'}  # type: ignore[assignment]
    (sample,) = read(
        tmp_path,
        {
            "tools": [TOOL],
            "messages": [
                {"role": "user", "content": "有货吗"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "3"},
                {"role": "assistant", "content": "<think>three</think>有"},
            ],
        },
    )
    assert sample.kind == "chat" and sample.tools == (TOOL,)
    assert roles(sample) == ["user", "assistant", "tool", "assistant"]
    (made,) = sample.messages[1].tool_calls
    assert (made.name, made.arguments) == ("stock", {"item": "灯"})
    assert sample.messages[3].content == "<think>three</think>有"


def test_tool_arguments_that_are_no_json_are_named(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": "{item"}}
    row = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "content": "a"},
        ]
    }
    with pytest.raises(InputError, match="arguments"):
        read(tmp_path, row)


def test_sharegpt_function_calls_and_observations_are_tool_turns(tmp_path: Path) -> None:
    (sample,) = read(
        tmp_path,
        {
            "system": "be brief",
            "tools": json.dumps([TOOL["function"]]),
            "conversations": [
                {"from": "human", "value": "in stock?"},
                {"from": "function_call", "value": '{"name": "stock", "arguments": {"item": 1}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "yes"},
            ],
        },
    )
    assert roles(sample) == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].tool_calls[0].arguments == {"item": 1}
    assert sample.tools[0]["function"]["name"] == "stock"


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {
            "prompt": [{"role": "user", "content": "q"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        },
    ],
    ids=["alpaca", "sharegpt", "trl texts", "trl messages"],
)
def test_a_pair_is_a_prompt_with_two_answers(row: dict[str, Any], tmp_path: Path) -> None:
    (sample,) = read(tmp_path, row)
    assert sample.kind == "preference"
    assert [message.content for message in sample.messages] == ["q"]
    assert sample.chosen is not None and sample.rejected is not None
    assert (sample.chosen.content, sample.rejected.content) == ("good", "bad")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": "a", "kto_tag": False},
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "label": False,
        },
        {"prompt": "q", "completion": "a", "label": False},
    ],
    ids=["alpaca", "openai", "trl"],
)
def test_a_marked_row_is_feedback(row: dict[str, Any], tmp_path: Path) -> None:
    (sample,) = read(tmp_path, row)
    assert sample.kind == "feedback" and sample.desirable is False
    assert [message.content for message in sample.messages] == ["q", "a"]


def test_a_mark_that_is_no_truth_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kto_tag"):
        read(tmp_path, {"instruction": "q", "output": "a", "kto_tag": "yes"})


def test_plain_text_is_read_from_rows_and_from_txt(tmp_path: Path) -> None:
    (sample,) = read(tmp_path, {"text": "你好 world"})
    assert (sample.kind, sample.text) == ("text", "你好 world")
    file = tmp_path / "book.txt"
    file.write_text("first\n\nsecond\n")
    texts = [s.text for s in open_samples([DataSource(path=str(file))])]
    assert [text.strip() for text in texts] == ["first", "second"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "stream.arrow"])
def test_tables_give_the_rows_of_jsonl(suffix: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "input": "", "output": f'a,"{i}"\n灯'} for i in range(5)]
    file = tmp_path / f"rows.{suffix.rpartition('.')[2]}"
    if suffix == "csv":
        import csv

        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa

        table = pa.Table.from_pylist(rows)
        if suffix == "parquet":
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, file)
        else:
            make = pa.ipc.new_stream if suffix == "stream.arrow" else pa.ipc.new_file
            with pa.OSFile(str(file), "wb") as sink, make(sink, table.schema) as writer:
                writer.write_table(table)
    wanted = [[m.content for m in s.messages] for s in read(tmp_path, *rows)]
    samples = list(open_samples([DataSource(path=str(file))]))
    assert [[m.content for m in s.messages] for s in samples] == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
_NAMES = (
    "messages conversations instruction input output history system tools chosen rejected "
    "prompt completion label kto_tag text id topic"
)
KEYS = st.sampled_from(_NAMES.split())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5) | JSON, min_size=1, max_size=4))
def test_any_json_is_a_sample_or_a_named_problem(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    file = tmp_path_factory.mktemp("any") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = read_file(file)
    bad = {problem.line for problem in loaded.problems}
    if 0 not in bad and loaded.format is not None:
        assert len(loaded.samples) + len(bad) == len(rows)
    try:
        list(open_samples([DataSource(path=str(file))], bad_rows="skip"))
    except SlipwayError as error:
        assert error.message_en
