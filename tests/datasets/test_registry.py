"""dataset_info.json as LLaMA Factory reads it: places, columns, roles, parts, faults."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core.errors import InputError, NotFoundError, SlipwayError, UsageError
from slipway.datasets import Sample, SampleStream, check_dataset, open_samples
from slipway.datasets.registry import find_dataset
from slipway.datasets.registry_split import Span, parse_split
from slipway.datasets.source import DataSource

ALPACA = {"instruction": "q", "input": "more", "output": "a"}
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
}


class Factory:
    """A folder with a dataset_info.json that names one dataset, `set`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, rows: list[Any], file: str = "rows.json", **entry: Any) -> Factory:
        text = json.dumps(rows) if file.endswith(".json") else "\n".join(map(json.dumps, rows))
        (self.folder / file).write_text(text, encoding="utf-8")
        return self.name({"file_name": file, **entry})

    def name(self, entry: Any) -> Factory:
        (self.folder / "dataset_info.json").write_text(json.dumps({"set": entry}), "utf-8")
        return self

    def stream(self, stage: str | None = "sft", **how: Any) -> SampleStream:
        return open_samples(
            [DataSource(path="set", info=str(self.folder))], bad_rows="skip", stage=stage, **how
        )

    def first(self, stage: str | None = "sft") -> Sample:
        return next(iter(self.stream(stage)))

    def fault(self, stage: str | None = "sft") -> SlipwayError:
        with pytest.raises(SlipwayError) as caught:
            list(self.stream(stage))
        return caught.value


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    folder = tmp_path / "data"
    folder.mkdir()
    return Factory(folder)


def said(sample: Sample) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in sample.messages]


# columns


def test_an_entry_with_a_file_alone_is_alpaca_without_history_and_system(factory: Factory) -> None:
    row = {**ALPACA, "history": [["h", "b"]], "system": "s"}
    assert said(factory.put([row]).first()) == [("user", "q\nmore"), ("assistant", "a")]


def test_columns_that_are_listed_are_all_there_is(factory: Factory) -> None:
    """The trap: once `columns` stands there, `input` is not read unless it is listed."""
    columns = {"prompt": "instruction", "response": "output"}
    stream = factory.put([ALPACA], columns=columns).stream()
    assert [said(sample) for sample in stream] == [[("user", "q"), ("assistant", "a")]]
    assert stream.unused_keys == Counter({"input": 1})


def test_custom_columns_with_history_and_system(factory: Factory) -> None:
    row = {"ask": "q", "extra": "", "say": "a", "before": [["h", "b"]], "rules": "s"}
    columns = {
        "prompt": "ask",
        "query": "extra",
        "response": "say",
        "history": "before",
        "system": "rules",
    }
    assert said(factory.put([row], columns=columns).first()) == [
        ("system", "s"),
        ("user", "h"),
        ("assistant", "b"),
        ("user", "q"),
        ("assistant", "a"),
    ]


def test_sharegpt_has_the_usual_roles_without_tags(factory: Factory) -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "a"},
    ]
    tools = json.dumps([{"name": "f", "parameters": {}}])
    columns = {"messages": "conversations", "tools": "tools"}
    sample = factory.put(
        [{"conversations": turns, "tools": tools}], formatting="sharegpt", columns=columns
    ).first()
    assert [message.role for message in sample.messages] == [
        *("system", "user", "assistant", "tool", "assistant"),
    ]
    assert sample.messages[2].tool_calls[0].arguments == {"x": 1}
    assert sample.tools[0]["function"]["name"] == "f"


def test_a_system_turn_goes_before_the_system_column(factory: Factory) -> None:
    rows = [
        {"conversations": [{"from": "system", "value": "turn"}, *TURNS], "system": "column"},
        {"conversations": TURNS, "system": "column"},
    ]
    columns = {"messages": "conversations", "system": "system"}
    stream = factory.put(rows, formatting="sharegpt", columns=columns).stream()
    assert [said(sample)[0] for sample in stream] == [("system", "turn"), ("system", "column")]


def test_custom_tags_and_a_system_turn_that_they_do_not_allow(factory: Factory) -> None:
    """The trap: tags without `system_tag` make rows with a system turn illegal."""
    good = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    bad = [{"role": "system", "content": "s"}, *good]
    stream = factory.put(
        [{"messages": good}, {"messages": bad}],
        formatting="sharegpt",
        columns={"messages": "messages"},
        tags=OPENAI_TAGS,
    ).stream()
    assert [said(sample) for sample in stream] == [[("user", "q"), ("assistant", "a")]]
    assert [problem.code for problem in stream.problems] == ["unknown_role"]
    with_system = factory.put(
        [{"messages": bad}],
        formatting="sharegpt",
        columns={"messages": "messages"},
        tags={**OPENAI_TAGS, "system_tag": "system"},
    )
    assert said(with_system.first())[0] == ("system", "s")


def test_formatting_openai_reads_tool_calls_and_adds_nothing_to_the_system_turn(
    factory: Factory,
) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}, "id": "1", "type": "function"}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "1"},
        {"role": "assistant", "content": "a"},
    ]
    tags = {**OPENAI_TAGS, "observation_tag": "tool", "function_tag": "assistant"}
    sample = factory.put(
        [{"messages": turns}], formatting="openai", columns={"messages": "messages"}, tags=tags
    ).first()
    assert said(sample) == [("user", "q"), ("assistant", ""), ("tool", "1"), ("assistant", "a")]
    assert sample.messages[1].tool_calls[0].name == "f"


def test_ids_are_not_read_and_may_stand_twice(factory: Factory) -> None:
    rows = [{**ALPACA, "id": 1}, {**ALPACA, "id": 1}, {**ALPACA, "id": [2]}]
    assert [sample.id for sample in factory.put(rows, "r.jsonl").stream()] == ["r:1", "r:2", "r:3"]


# stages


def test_plain_text_is_the_prompt_alone(factory: Factory) -> None:
    texts = factory.put([{"text": "plain"}], "t.jsonl", columns={"prompt": "text"})
    assert texts.first("pt").text == texts.first(None).text == "plain"
    assert factory.put([ALPACA]).first("pt").text == "q\nmore"
    (factory.folder / "t.txt").write_text("one\n\ntwo\n", "utf-8")
    factory.name({"file_name": "t.txt", "columns": {"prompt": "text"}})
    assert [sample.text for sample in factory.stream("pt")] == ["one", "two"]


def test_an_answer_column_that_is_not_listed_is_missed_by_name(factory: Factory) -> None:
    error = factory.put([{"text": "plain"}], columns={"prompt": "text"}).fault("sft")
    assert "columns.response" in error.message_en


def test_pairs_in_alpaca_and_sharegpt(factory: Factory) -> None:
    row = {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"}
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    sample = factory.put([row], ranking=True, columns=columns).first("dpo")
    assert sample.chosen and sample.rejected
    assert (sample.chosen.content, sample.rejected.content) == ("good", "bad")
    turn = {
        "conversations": TURNS[:1],
        "better": {"from": "gpt", "value": "good"},
        "worse": {"from": "gpt", "value": "bad"},
    }
    columns = {"messages": "conversations", "chosen": "better", "rejected": "worse"}
    sample = factory.put([turn], ranking=True, formatting="sharegpt", columns=columns).first("rm")
    assert sample.kind == "preference"
    assert sample.rejected and sample.rejected.content == "bad"


def test_feedback_needs_a_mark_that_is_true_or_false(factory: Factory) -> None:
    rows = [{**ALPACA, "label": True}, {**ALPACA, "label": False}, {**ALPACA, "label": 3}]
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "label"}
    stream = factory.put(rows, columns=columns).stream("kto")
    assert [sample.desirable for sample in stream] == [True, False]
    assert [problem.field for problem in stream.problems] == ["label"]


@pytest.mark.parametrize(
    ("stage", "ranking"),
    [("sft", True), ("kto", True), ("pt", True), ("rloo", True), ("dpo", False), ("rm", False)],
)
def test_pairs_fit_the_stages_of_pairs_and_nothing_else(
    factory: Factory, stage: str, ranking: bool
) -> None:
    error = factory.put([ALPACA], ranking=ranking).fault(stage)
    assert (error.code, type(error)) == ("data.wrong_stage", UsageError)


# which rows


@pytest.mark.parametrize("wanted", [3, 10, 25])
def test_num_samples_are_drawn_and_more_than_there_are_with_repetition(
    factory: Factory, wanted: int
) -> None:
    rows = [{**ALPACA, "instruction": str(i)} for i in range(10)]
    factory.put(rows, num_samples=wanted)
    stream = factory.stream(seed=4)
    asked = [said(sample)[0][1] for sample in stream]
    assert len(asked) == wanted
    assert len(set(asked)) == min(wanted, 10)
    assert asked == [said(sample)[0][1] for sample in stream]
    if wanted != 10:
        assert asked != [said(sample)[0][1] for sample in factory.stream(seed=5)]
    assert len(list(factory.stream(max_samples=2))) == 2


@pytest.mark.parametrize("how", ["drawn", "over", "twice"])
def test_a_row_that_comes_several_times_is_learned_or_kept_and_never_both(
    factory: Factory, how: str
) -> None:
    rows = [{**ALPACA, "instruction": str(i)} for i in range(10)]
    factory.put(rows, "r.jsonl", **({"num_samples": 40} if how == "drawn" else {}))
    more = factory.folder / "more.jsonl"
    more.write_text("\n".join(json.dumps({**ALPACA, "instruction": f"m{i}"}) for i in range(25)))
    mine = DataSource(path="set", info=str(factory.folder))
    other = DataSource(path=str(more if how == "over" else factory.folder / "r.jsonl"))
    sources = [mine] if how == "drawn" else [mine, other]
    stream = open_samples(sources, mix="interleave_over" if how == "over" else "concat")
    distinct = 35 if how == "over" else 10
    for val_size, wanted in ((3, 3), (0.2, distinct // 5)):
        train, kept = (list(side) for side in stream.divided(val_size, seed=1))
        learned, tested = ({(s.file, s.line) for s in side} for side in (train, kept))
        assert not learned & tested
        assert len(learned | tested) == distinct
        assert len(kept) == len(tested) == wanted
    assert len(train) > len(learned)  # repetitions stay among what is learned


def test_a_part_of_the_split(factory: Factory) -> None:
    rows = [{**ALPACA, "instruction": str(i)} for i in range(10)]
    stream = factory.put(rows, "r.jsonl", split="train[20%:5]").stream()
    assert [sample.line for sample in stream] == [3, 4, 5]
    drawn = factory.put(rows, "r.jsonl", split="train[:2]", num_samples=5).stream()
    assert {sample.line for sample in drawn} == {1, 2}


@given(st.integers(0, 50), st.integers(-60, 60), st.integers(-60, 60))
def test_a_span_is_that_of_a_list(count: int, start: int, stop: int) -> None:
    assert list(Span(str(start), str(stop)).rows(count)) == list(range(count))[start:stop]
    assert list(Span("", "").rows(count)) == list(range(count))


@given(st.integers(0, 500), st.integers(0, 100))
def test_two_percentages_that_meet_divide_the_rows(count: int, percent: int) -> None:
    left, right = Span("", f"{percent}%").rows(count), Span(f"{percent}%", "").rows(count)
    assert [*left, *right] == list(range(count))


def test_sums_of_splits_are_no_split() -> None:
    assert parse_split("train") == ("train", None)
    assert parse_split("train+test") is None
    assert parse_split("train[1:2:3]") is None


# files


def test_a_folder_of_files_of_one_type(factory: Factory) -> None:
    folder = factory.folder / "many"
    folder.mkdir()
    for name in ("b.jsonl", "a.jsonl"):
        (folder / name).write_text(json.dumps({**ALPACA, "instruction": name}), "utf-8")
    stream = factory.name({"file_name": "many"}).stream()
    assert [said(sample)[0][1] for sample in stream] == ["a.jsonl\nmore", "b.jsonl\nmore"]
    (folder / "c.csv").write_text("instruction,output\n", "utf-8")
    assert factory.fault().code == "data.several_types"


def test_what_decides_the_samples_is_in_the_digest_and_the_way_it_is_written_is_not(
    factory: Factory,
) -> None:
    first = factory.put([ALPACA]).stream().digest
    same = factory.name({"ranking": False, "file_name": "rows.json", "_note": "x"}).stream()
    assert same.digest == first
    for change in (
        {"columns": {"prompt": "instruction", "response": "output"}},
        {"num_samples": 1},
        {"split": "train[:1]"},
    ):
        assert factory.name({"file_name": "rows.json", **change}).stream().digest != first


# faults


def test_an_unknown_name_is_told_with_the_nearest_and_the_file(factory: Factory) -> None:
    factory.put([ALPACA])
    with pytest.raises(NotFoundError) as caught:
        find_dataset(str(factory.folder), "sett")
    assert caught.value.code == "data.undefined"
    assert str(factory.folder / "dataset_info.json") in caught.value.message_en
    assert caught.value.hint_en == "did you mean `set`?"
    with pytest.raises(NotFoundError, match="holds no dataset_info") as caught:
        find_dataset(str(factory.folder / "no"), "set")


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ({"file_nme": "rows.json"}, UsageError, "file_nme"),
        ({"columns": {"promt": "q"}}, UsageError, "columns.promt"),
        ({"tags": {"role": "q"}}, UsageError, "tags.role"),
        ({"formatting": "sharegtp"}, InputError, "formatting"),
        ({"formatting": "sharegpt", "columns": {"prompt": "q"}}, InputError, "columns.messages"),
        ({"columns": {"response": "output"}}, InputError, "columns.prompt"),
        ({"formatting": "sharegpt", "tags": {"role_tag": "role"}}, InputError, "tags.content_tag"),
        ({"columns": {"prompt": "q", "images": "images"}}, UsageError, "columns.images"),
        ({"script_url": "x"}, UsageError, "script_url"),
        ({"cloud_file_name": "s3://x/y.json"}, UsageError, "cloud_file_name"),
        ({"om_hub_url": "x/y"}, UsageError, "om_hub_url"),
        ({"ranking": "yes"}, InputError, "ranking"),
        ({"num_samples": 0}, InputError, "num_samples"),
        ({"split": "train+test"}, UsageError, "split"),
        ({"split": "test"}, InputError, "split"),
        ({"file_name": "no.json"}, NotFoundError, r"no\.json"),
        ({"file_name": "rows.xlsx"}, InputError, "file_name"),
        ({"file_name": 3}, InputError, "file_name"),
        ({"columns": ["prompt"]}, InputError, "columns"),
        ([], InputError, "object"),
    ],
)
def test_faults_name_the_registry_the_dataset_and_the_key(
    factory: Factory, entry: Any, error: type[SlipwayError], words: str
) -> None:
    factory.put([ALPACA])
    (factory.folder / "rows.xlsx").write_text("x")
    factory.name({"file_name": "rows.json", **entry} if isinstance(entry, dict) else entry)
    with pytest.raises(error, match=words) as caught:
        list(factory.stream())
    assert "dataset_info.json" in caught.value.message_en
    assert "`set`" in caught.value.message_en
    assert caught.value.hint_en


def test_a_registry_that_is_not_json_is_named(factory: Factory) -> None:
    (factory.folder / "dataset_info.json").write_text("{", "utf-8")
    assert factory.fault().code == "data.bad_registry"
    (factory.folder / "dataset_info.json").write_text("[]", "utf-8")
    assert factory.fault().code == "data.bad_registry"


def test_check_reads_a_registered_dataset_by_its_columns(factory: Factory) -> None:
    rows = [{"ask": "q", "say": "a"}, {"ask": "r"}]
    factory.put(rows, "r.jsonl", columns={"prompt": "ask", "response": "say"})
    report = check_dataset(DataSource(path="set", info=str(factory.folder)))
    assert report.rows == {"train": 1}
    assert [(problem.line, problem.field) for problem in report.errors] == [(2, "say")]
    assert report.warnings == []


def test_a_hint_about_bad_rows_leads_to_the_check_of_the_registered_dataset(
    factory: Factory,
) -> None:
    factory.put([{"instruction": "q"}])
    with pytest.raises(InputError) as caught:
        list(open_samples([DataSource(path="set", info=str(factory.folder))]))
    assert f"data check set --dataset-dir {factory.folder}" in caught.value.hint_en
