from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.datasets.rows_for_tests import row

from slipway.datasets import check_dataset
from slipway.datasets.reasons import Reason

QUESTIONS = [
    "Where is my parcel?",
    "How do I send a broken lamp back to you?",
    "Can I pay by invoice as a company?",
    "我的快递到哪里了？",
    "怎么开增值税发票？",
    "优惠券过期了还能用吗？",
]


def distinct() -> list[dict[str, object]]:
    return [row(question, f"Answer {i} to {question}") for i, question in enumerate(QUESTIONS)]


def test_a_clean_dataset_is_ok_and_shows_its_most_similar_pairs(
    write: Callable[..., Path],
) -> None:
    rows = [*distinct(), row("Where is my invoice?", "In your account, under orders.")]
    report = check_dataset(write(rows, [row("Is my parcel in Norway?", "Not yet, I think.")]))
    assert report.ok
    assert report.rows == {"train": 7, "heldout": 1}
    assert report.near_duplicates == report.leaks == report.warnings == []
    assert report.method == "exact"
    assert 0 < report.most_similar["question"].similarity < 0.8
    assert 0 < report.most_similar["leak"].similarity < 0.8


def test_every_problem_of_both_splits_is_reported(write: Callable[..., Path]) -> None:
    folder = write([*distinct(), {"messages": []}, {"x": 1}], [{"messages": 3}])
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    report = check_dataset(folder)
    assert not report.ok
    assert [(p.file.stem, p.line, p.code) for p in report.errors] == [
        ("train", 7, "empty"),
        ("train", 8, "missing_field"),
        ("train", 9, "broken_json"),
        ("heldout", 1, "wrong_type"),
    ]


def test_the_same_conversation_twice_is_an_error_whatever_its_case_or_punctuation(
    write: Callable[..., Path],
) -> None:
    report = check_dataset(
        write([*distinct(), row("where is my PARCEL", "answer 0 to where is my parcel")])
    )
    assert [(p.line, p.code) for p in report.errors] == [(7, "duplicate_row")]
    assert "train.jsonl:1" in report.errors[0].reason.en


def test_near_questions_are_warned_of_with_their_similarity(write: Callable[..., Path]) -> None:
    rows = [
        *distinct(),
        row("How do I send a broken lamp back to you please?", "Quite another answer."),
        row("怎么开增值税发票呀？", "请在订单页申请，三天内发到邮箱。"),
    ]
    report = check_dataset(write(rows))
    pairs = {(pair.left.line, pair.right.line): pair for pair in report.near_duplicates}
    assert set(pairs) == {(2, 7), (5, 8)}
    assert all(0.8 <= pair.similarity < 1 for pair in pairs.values())
    assert report.ok
    assert any("2 pairs" in warning.en for warning in report.warnings)


def test_conversations_alike_behind_different_questions_are_found(
    write: Callable[..., Path],
) -> None:
    answer = " ".join(f"word{i}" for i in range(60))
    report = check_dataset(write([row("Alpha?", answer), row("Beta?", answer)]))
    (pair,) = report.near_duplicates
    assert (pair.what, pair.similarity > 0.9) == ("conversation", True)


def test_a_shared_system_prompt_does_not_make_rows_alike(write: Callable[..., Path]) -> None:
    rows = distinct()
    for one in rows:
        system = {"role": "system", "content": "You serve the customers of a shop. " * 20}
        one["messages"] = [system, *one["messages"]]  # type: ignore[misc]
    assert check_dataset(write(rows)).near_duplicates == []


@pytest.mark.parametrize(
    "question", ["where is my parcel", "怎么开增值税发票呀？", "And what about the lamp cable?"]
)
def test_a_held_out_question_that_stands_in_train_is_an_error(
    write: Callable[..., Path], question: str
) -> None:
    train = [*distinct(), row("Hi", "Hello", "And what about the lamp cable?", "It is free.")]
    report = check_dataset(write(train, [row("Is this new?", "Yes."), row(question, "Other.")]))
    assert not report.ok
    (leak,) = report.leaks
    assert leak.left.line == 2
    assert [(p.file.name, p.line, p.code) for p in report.errors] == [("heldout.jsonl", 2, "leak")]


def test_an_id_used_in_both_splits_is_an_error(write: Callable[..., Path]) -> None:
    report = check_dataset(write([row("a?", "b", id="x")], [row("c?", "d", id="x")]))
    assert [(p.file.name, p.field, p.code) for p in report.errors] == [
        ("heldout.jsonl", "id", "duplicate_id")
    ]


def test_an_id_used_twice_in_a_file_names_the_first_line(write: Callable[..., Path]) -> None:
    report = check_dataset(write([row("a?", "b", id="x"), row("c?", "d", id="x")]))
    (problem,) = report.errors
    assert (problem.line, problem.code) == (2, "duplicate_id")
    assert "line 1" in problem.reason.en


def test_unused_keys_and_a_missing_held_out_split_are_warnings(write: Callable[..., Path]) -> None:
    report = check_dataset(write([row("a?", "b", mood="glad"), row("c?", "d")]))
    assert report.ok
    texts = [warning.en for warning in report.warnings]
    assert any("`mood` is not used (1 rows)" in text for text in texts)
    assert any("heldout.jsonl" in text for text in texts)


def test_texts_pairs_and_datasets_without_a_good_row_are_checked_too(
    write: Callable[..., Path],
) -> None:
    text = " ".join(f"word{n}" for n in range(50))
    texts = check_dataset(write([{"text": text}, {"text": f"{text} more"}, {"text": text}]))
    assert [p.code for p in texts.errors] == ["duplicate_row"]
    assert [(p.left.line, p.right.line) for p in texts.near_duplicates] == [(1, 2)]
    pair = {"instruction": "Hi there?", "chosen": "Yes indeed.", "rejected": "Go away."}
    pairs = check_dataset(write([pair, {**pair, "rejected": "No."}]))
    assert pairs.ok and pairs.splits["train"].quality.mean > 90
    nothing = check_dataset(write([{"messages": []}, {"x": 1}]))
    assert (nothing.rows, nothing.skipped, nothing.ok) == ({"train": 0}, 2, False)
    json.dumps(nothing.as_json())


def test_a_thousand_faults_are_named_and_all_are_counted(write: Callable[..., Path]) -> None:
    report = check_dataset(write([row("same", "thing")] * 1500 + [{"messages": []}] * 700))
    assert (len(report.errors), report.error_count) == (1000, 2199)
    assert report.error_codes == {"duplicate_row": 1499, "empty": 700}
    assert report.splits["train"].quality.reasons[Reason.DUPLICATE].count == 1499


def test_the_report_is_one_json_document(write: Callable[..., Path]) -> None:
    report = check_dataset(write(distinct(), [row("where is my parcel", "x"), {}]))
    value = json.loads(json.dumps(report.as_json()))
    assert value["ok"] is False
    assert value["errors"][0]["file"].endswith("heldout.jsonl")
    assert value["leaks"][0]["right"]["row"] == "train.jsonl:1"
