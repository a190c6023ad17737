"""Datasets made from datasets, read again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.datasets.rows_for_tests import row

from slipway.core.errors import ConflictError, InputError, UsageError
from slipway.datasets import DataSource, Sample, check_dataset, load_dataset, open_samples
from slipway.datasets.convert_rows import TARGETS, Target, convert
from slipway.datasets.derive import (
    DedupeOptions,
    Out,
    SplitOptions,
    convert_dataset,
    dedupe_dataset,
    mask_dataset,
    split_dataset,
)
from slipway.datasets.formats import LAYOUTS, PARSERS
from slipway.datasets.mask_rows import mask_row
from slipway.datasets.model import Message, ToolCall
from slipway.datasets.personal import USUAL
from slipway.datasets.register import register
from slipway.datasets.row_files import row_file

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOLS_ROW = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
        {"role": "tool", "content": "Rain", "tool_call_id": "a"},
        {"role": "assistant", "content": "It rains."},
    ],
    "tools": [TOOL],
}


def source(path: Path) -> DataSource:
    return DataSource(path=str(path))


def same(left: Sample, right: Sample) -> bool:
    def parts(one: Sample) -> tuple[Any, ...]:
        return (one.messages, one.tools, one.chosen, one.rejected, one.desirable, one.text)

    return parts(left) == parts(right)


words = st.text(st.sampled_from('ab c好吗\n"{,é'), min_size=1, max_size=12).filter(str.strip)
conversations = st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    roles = ("user", "assistant")
    texts = draw(conversations)
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]  # type: ignore[arg-type]
    if draw(st.booleans()):
        messages.insert(0, Message("system", draw(words)))
    made = Sample("own", tuple(messages), Path("x.jsonl"), 3, draw(st.sampled_from(["", "t"])))
    kind = draw(st.sampled_from(["chat", "preference", "feedback"]))
    if kind == "feedback":
        return replace(made, desirable=draw(st.booleans()))
    if kind == "preference":
        chosen = draw(words)
        return replace(
            made,
            messages=made.messages[:-1],
            chosen=Message("assistant", chosen),
            rejected=Message("assistant", f"not {chosen}"),
        )
    return made


@given(samples(), st.sampled_from(["openai", "sharegpt", "alpaca", "trl"]))
def test_a_row_in_any_format_reads_back_as_the_same_sample(sample: Sample, target: Target) -> None:
    written = convert(sample, target)
    assert written.row is not None
    parsed = PARSERS[target](json.loads(json.dumps(written.row)), LAYOUTS[target])
    assert tuple(message for _, message in parsed.messages) == sample.messages
    assert (parsed.id, parsed.topic, parsed.desirable) == ("own", sample.topic, sample.desirable)
    assert (parsed.chosen and parsed.chosen[1]) == sample.chosen
    assert (parsed.rejected and parsed.rejected[1]) == sample.rejected


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("target", ["openai", "sharegpt", "trl"])
def test_calls_of_functions_survive_every_format_and_type_of_file(
    write: Callable[..., Path], tmp_path: Path, target: Target, suffix: str
) -> None:
    folder = write([TOOLS_ROW, row("Hi?", "Yes.", id="own")])
    out = tmp_path / f"out.{suffix}"
    convert_dataset(source(folder), Out(out), target, lossy=target == "trl")
    before, after = load_dataset(folder), load_dataset(out)
    assert len(after) == 2
    assert all(map(same, before, after))
    assert before[0].messages[2].tool_calls == (ToolCall("weather", {"city": "Oslo"}),)
    assert after[1].id == "own"


def test_what_a_format_has_no_place_for_is_an_error_or_named(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write([row("Hi?", "Yes."), TOOLS_ROW])
    out = Out(tmp_path / "out.json")
    with pytest.raises(InputError, match=r"train\.jsonl:2.*`tool_calls`"):
        convert_dataset(source(folder), out, "alpaca")
    assert not out.path.exists()
    done = convert_dataset(source(folder), out, "alpaca", lossy=True)
    assert done.rows == {"train": 1}
    assert [(p.line, p.field) for p in done.problems.first] == [(2, "tool_calls")]
    with pytest.raises(InputError, match="`chat`"):
        convert_dataset(source(folder), Out(tmp_path / "text.jsonl"), "text")


def test_both_splits_are_written_and_nothing_is_overwritten_unasked(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write([row("Hi?", "Yes.")], [row("Ho?", "No.")])
    out = tmp_path / "out"
    convert_dataset(source(folder), Out(out, ".json"), "alpaca")
    assert [s.messages[0].content for s in load_dataset(out, "heldout")] == ["Ho?"]
    with pytest.raises(ConflictError, match="exists already"):
        convert_dataset(source(folder), Out(out, ".json"), "alpaca")
    with pytest.raises(UsageError, match="splits"):
        convert_dataset(source(folder), Out(tmp_path / "one.jsonl"), "alpaca")
    with pytest.raises(UsageError, match="cannot be written"):
        convert_dataset(source(folder / "train.jsonl"), Out(out, ".txt"), "alpaca")
    convert_dataset(source(folder), Out(out, ".json", force=True), "alpaca")


@pytest.mark.parametrize("target", ["openai", "sharegpt", "alpaca"])
@pytest.mark.parametrize("pairs", [False, True])
def test_a_registered_file_is_read_by_its_name(
    write: Callable[..., Path], tmp_path: Path, target: Target, pairs: bool
) -> None:
    answers = {"chosen": "Yes.", "rejected": "No."} if pairs else {"output": "Yes."}
    rows = [{"instruction": f"Hi {n}?", "system": "Be kind.", **answers} for n in range(3)]
    folder = write(rows)
    file = tmp_path / "lf" / "rows.json"
    done = convert_dataset(source(folder), Out(file), target)
    register(file, "mine", target, done.columns, force=False)
    register(file, "more", target, done.columns, force=False)
    with pytest.raises(ConflictError, match="`mine`"):
        register(file, "mine", target, done.columns, force=False)
    named = DataSource(path="mine", info=str(file.parent))
    read = list(open_samples([named], stage="dpo" if pairs else "sft"))
    assert all(map(same, load_dataset(folder), read))


@pytest.mark.parametrize("target", ["openai", "sharegpt"])
def test_a_registered_file_with_calls_of_functions_is_read_by_its_name(
    write: Callable[..., Path], tmp_path: Path, target: Target
) -> None:
    folder = write([TOOLS_ROW])
    file = tmp_path / "lf" / "rows.json"
    done = convert_dataset(source(folder), Out(file), target)
    register(file, "mine", target, done.columns, force=False)
    (read,) = open_samples([DataSource(path="mine", info=str(file.parent))])
    assert same(load_dataset(folder)[0], read)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl", "json"])
def test_rows_of_any_shape_are_written_and_read_again(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "tags": ["x", "y"], "n": 1},
        {"text": 'b,\n"c"', "deep": {"a": {}, "b": [1, {"c": None}]}, "n": 2.5},
        {"text": "好", "n": "three"},
    ] * 700
    path = tmp_path / f"rows.{suffix}"
    with row_file(path) as writer:
        for one in rows:
            writer.write(one)
    assert [sample.text for sample in load_dataset(path)] == [one["text"] for one in rows]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for suffix in ("jsonl", "parquet"):
        with pytest.raises(RuntimeError), row_file(tmp_path / f"rows.{suffix}") as writer:
            writer.write({"text": "a"})
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_masking_keeps_columns_order_and_json_in_texts(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [
        row(
            "打 13812345678 或 13812345678", "好的，13912345678 呢？", mood="glad", id="13812345678"
        ),
        {"messages": TOOLS_ROW["messages"], "phone": 13812345678},
    ]
    rows[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"tel": 13812345678}'
    out = tmp_path / "out.jsonl"
    _, counts, masked_rows = mask_dataset(source(write(rows)), Out(out), USUAL)
    first, second = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert first["messages"][0]["content"] == "打 [MOBILE_1] 或 [MOBILE_1]"
    assert first["messages"][1]["content"] == "好的，[MOBILE_2] 呢？"
    assert (first["mood"], first["id"]) == ("glad", "13812345678")
    call = second["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(call) == {"tel": "[MOBILE_1]"}
    assert second["phone"] == "[MOBILE_1]"
    assert (counts, masked_rows) == ({"mobile": 5}, 2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
def test_a_row_without_personal_data_is_not_touched(value: dict[str, Any]) -> None:
    masked, counts = mask_row(value)
    if not counts:
        assert masked == value


def topics(count: int) -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        row(
            " ".join(f"q{rng.randrange(3000)}" for _ in range(9)),
            " ".join(f"a{rng.randrange(3000)}" for _ in range(12)),
            id=f"r{n}",
            topic=f"t{n % 4}",
            user=n // 5,
        )
        for n in range(count)
    ]


def test_of_rows_alike_the_best_stays_and_what_went_is_named(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    rows = topics(6)
    twin = json.loads(json.dumps(rows[0]))
    worse = json.loads(json.dumps(rows[1]))
    worse["messages"][1]["content"] += " <br> [Your Name]"
    twin["id"], worse["id"] = "twin", "worse"
    leaked = row(rows[5]["messages"][0]["content"], "another answer to that", id="h")
    folder = write([worse, *rows, twin], [leaked])
    removed = tmp_path / "gone.jsonl"
    out = tmp_path / "out"
    options = DedupeOptions(removed=removed, threshold=0.7)
    derived, plan = dedupe_dataset(source(folder), Out(out), options)
    assert plan.counts == {"same": 1, "near": 1, "leak": 1}
    assert [s.id for s in load_dataset(out)] == ["r0", "r1", "r2", "r3", "r4"]
    assert derived.rows == {"train": 5, "heldout": 1}
    gone = {json.loads(line)["id"]: json.loads(line) for line in removed.read_text().splitlines()}
    assert gone["worse"]["kept"] == "train.jsonl:3"
    assert gone["r5"]["why"] == "leak"
    assert (gone["twin"]["why"], gone["twin"]["kept"]) == ("same", "train.jsonl:2")
    report = check_dataset(out)
    assert report.ok and report.near_count == 0


def test_only_the_same_go_when_asked_for_exact(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = topics(3)
    near = json.loads(json.dumps(rows[0]))
    near["messages"][1]["content"] += " more"
    near["id"] = "near"
    twin = {**rows[1], "id": "twin"}
    out = Out(tmp_path / "out.jsonl")
    _, plan = dedupe_dataset(source(write([*rows, near, twin])), out, DedupeOptions(near=False))
    assert plan.counts == {"same": 1}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.3, 7]))
def test_a_split_never_parts_rows_that_are_alike(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: float
) -> None:
    rng = random.Random(seed)
    rows = topics(40)
    for n in range(0, 20, 2):  # every second row is like its neighbour, in one way or another
        question, answer = (m["content"] for m in rows[n]["messages"])
        rows[n + 1] = rng.choice(
            [
                row(question + " please", "something else entirely", id=f"x{n}"),
                row(question, answer, id=f"x{n}"),
                row("hello there", "hi", question, "yes indeed", id=f"x{n}"),
            ]
        )
    folder = tmp_path_factory.mktemp("split")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    derived, division = split_dataset(source(file), Out(folder / "out"), SplitOptions(size, seed))
    assert derived.rows["train"] + derived.rows["heldout"] == 40
    assert derived.rows["heldout"] <= division.wanted
    report = check_dataset(folder / "out")
    assert report.leak_count == 0
    assert set(report.error_codes) <= {"duplicate_row"}
    assert not any(p.file.name == "heldout.jsonl" and "train" in p.reason.en for p in report.errors)


def test_the_same_seed_gives_the_same_split_and_another_another(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(topics(40))
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"out{number}"
        split_dataset(source(folder), Out(out), SplitOptions(0.25, seed))
        texts.append((out / "heldout.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0].splitlines()) == 10


def test_each_topic_gives_its_share_and_groups_stay_together(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write(topics(40))
    by_topic, by_user = tmp_path / "a", tmp_path / "b"
    split_dataset(source(folder), Out(by_topic), SplitOptions(8, stratify="topic"))
    counts = [s.topic for s in load_dataset(by_topic, "heldout")]
    assert sorted(counts) == ["t0", "t0", "t1", "t1", "t2", "t2", "t3", "t3"]
    split_dataset(source(folder), Out(by_user), SplitOptions(10, group_by="user"))
    users = [
        {json.loads(line)["user"] for line in (by_user / f"{name}.jsonl").read_text().splitlines()}
        for name in ("train", "heldout")
    ]
    assert not users[0] & users[1]
    with pytest.raises(InputError, match="`nobody`"):
        split_dataset(source(folder), Out(tmp_path / "c"), SplitOptions(8, group_by="nobody"))


def test_a_split_that_cannot_be_says_why(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write(topics(5))
    with pytest.raises(InputError, match="cannot be held out"):
        split_dataset(source(folder), Out(tmp_path / "o"), SplitOptions(5))
    alike = write([row("the same question again", f"answer {n}") for n in range(5)])
    with pytest.raises(InputError, match="alike"):
        split_dataset(source(alike), Out(tmp_path / "o"), SplitOptions(2))
    assert not (tmp_path / "o" / "train.jsonl").exists()


def test_bad_rows_between_good_ones_do_not_shift_which_row_is_written(tmp_path: Path) -> None:
    rows = topics(6)
    bad = [{"messages": []}, 3, {"messages": [{"role": "user", "content": "x"}]}]
    listed = [bad[0], rows[0], bad[1], rows[1], rows[2], bad[2], rows[3], rows[4], rows[5]]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(listed))  # all of them begin in line 1
    out = tmp_path / "out.jsonl"
    done, _, _ = mask_dataset(source(file), Out(out), USUAL)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [
        f"r{n}" for n in range(6)
    ]
    assert done.problems.rows == 3


def test_all_targets_can_be_asked_for() -> None:
    assert set(TARGETS) == set(PARSERS)
