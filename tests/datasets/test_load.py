from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.datasets.rows_for_tests import row

from slipway.core.errors import InputError, NotFoundError
from slipway.datasets import dataset_digest, load_dataset
from slipway.datasets.load import read_file

GOOD = json.dumps(row("hi", "hello"))


def put(tmp_path: Path, data: bytes | str, name: str = "train.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def problem_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(path)
    assert caught.value.code == "data.bad_row"
    assert "slipway data check" in caught.value.hint_en
    return caught.value.message_en


def test_openai_rows_keep_roles_text_id_and_topic(write: Callable[..., Path]) -> None:
    first = row("Where is it?", "On its way.", id="a-1", topic="delivery")
    first["messages"].insert(0, {"role": "system", "content": "Be kind."})
    folder = write([first, row("你好", "您好", "谢谢", "不客气")])
    one, two = load_dataset(folder)
    assert [(m.role, m.content) for m in one.messages] == [
        ("system", "Be kind."),
        ("user", "Where is it?"),
        ("assistant", "On its way."),
    ]
    assert (one.id, one.topic, one.line) == ("a-1", "delivery", 1)
    assert (two.id, two.line, len(two.messages)) == ("train:2", 2, 4)


def test_alpaca_rows_join_input_and_learn_the_history(tmp_path: Path) -> None:
    rows = [
        {
            "instruction": "Translate",
            "input": "dog",
            "output": "Hund",
            "system": "You translate.",
            "history": [["Hi", "Hello"]],
        },
        {"instruction": "Say yes", "output": "yes", "input": ""},
    ]
    path = put(tmp_path, json.dumps(rows, indent=1), "train.json")
    one, two = load_dataset(path)
    assert [(m.role, m.content) for m in one.messages] == [
        ("system", "You translate."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Translate\ndog"),
        ("assistant", "Hund"),
    ]
    assert two.messages[0].content == "Say yes"
    assert (one.line, two.line) == (2, 14)


def test_sharegpt_rows_lift_the_system_key(tmp_path: Path) -> None:
    value = {
        "system": "S",
        "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
    }
    (only,) = load_dataset(put(tmp_path, json.dumps(value)))
    assert [m.role for m in only.messages] == ["system", "user", "assistant"]


def test_byte_order_mark_windows_line_ends_and_blank_lines_change_nothing(tmp_path: Path) -> None:
    plain = load_dataset(put(tmp_path, f"{GOOD}\n{GOOD}\n"))
    odd = load_dataset(put(tmp_path, b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}\r\n".encode()))
    assert [s.messages for s in odd] == [s.messages for s in plain]
    assert [s.line for s in odd] == [1, 3]


def test_a_line_separator_inside_a_text_does_not_cut_the_row(tmp_path: Path) -> None:
    text = json.dumps(row("a\u2028b\x85c", "d"), ensure_ascii=False)
    (only,) = load_dataset(put(tmp_path, text))
    assert only.messages[0].content == "a\u2028b\x85c"


def test_broken_json_in_the_middle_names_its_line(tmp_path: Path) -> None:
    path = put(tmp_path, f'{GOOD}\n{{"messages": [}}\n{GOOD}\n')
    message = problem_of(path)
    assert f"{path}:2" in message
    assert "broken JSON" in message


def test_a_list_that_breaks_names_the_line_of_the_break(tmp_path: Path) -> None:
    path = put(tmp_path, f"[\n{GOOD},\n{GOOD}\n{GOOD}\n]", "train.json")
    assert f"{path}:4" in problem_of(path)


def test_what_stands_after_a_list_is_not_passed_over(tmp_path: Path) -> None:
    path = put(tmp_path, f"[{GOOD}]\n\n[{GOOD}]\n", "train.json")
    problem = problem_of(path)
    assert f"{path}:3" in problem and "after the list" in problem


def test_a_list_that_never_ends_is_refused(tmp_path: Path) -> None:
    assert "broken JSON" in problem_of(put(tmp_path, f"[{GOOD}", "train.json"))
    assert "not closed" in problem_of(put(tmp_path, f"[{GOOD},", "train.json"))


def test_gbk_is_recognised_and_the_conversion_named(tmp_path: Path) -> None:
    text = json.dumps(row("退货", "可以"), ensure_ascii=False)
    path = put(tmp_path, f"{GOOD}\n".encode() + text.encode("gb18030"))
    message = problem_of(path)
    assert f"{path}:2" in message
    assert "iconv -f gb18030" in message


@pytest.mark.parametrize("data", [GOOD.encode("utf-16"), b"\x00\x01\x02"])
def test_utf16_and_binary_are_refused(tmp_path: Path, data: bytes) -> None:
    assert "not UTF-8" in problem_of(put(tmp_path, data))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    assert "empty" in problem_of(put(tmp_path, data))


def test_a_missing_folder_file_or_split_is_not_found(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        load_dataset(tmp_path / "nothing")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(NotFoundError, match=r"train\.jsonl"):
        load_dataset(tmp_path / "hollow")
    with pytest.raises(NotFoundError, match="heldout"):
        load_dataset(write([row("a", "b")]), "heldout")


def user(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


def bot(text: object) -> dict[str, object]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("value", "field", "code"),
    [
        ([1], "", "wrong_type"),
        ({"messages": "hi"}, "messages", "wrong_type"),
        ({"messages": None}, "messages", "missing_field"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": ["hi"]}, "messages[0]", "wrong_type"),
        ({"messages": [{"content": "x"}, bot("y")]}, "messages[0].role", "missing_field"),
        ({"messages": [{"role": "user"}, bot("y")]}, "messages[0].content", "missing_field"),
        ({"messages": [user(3), bot("y")]}, "messages[0].content", "wrong_type"),
        ({"messages": [user("x"), bot(" \n")]}, "messages[1].content", "empty_text"),
        (
            {"messages": [{"role": "bot", "content": "x"}, bot("y")]},
            "messages[0].role",
            "unknown_role",
        ),
        (
            {"messages": [user("x"), {"role": "tool", "content": "y"}]},
            "messages[1].content",
            "role_order",
        ),
        (
            {"messages": [user("x"), {"role": "assistant", "tool_calls": [1], "content": None}]},
            "messages[1].tool_calls[0]",
            "wrong_type",
        ),
        ({"messages": [user("x"), user("y"), bot("z")]}, "messages[1].content", "role_order"),
        ({"messages": [bot("y"), user("x"), bot("z")]}, "messages[0].content", "role_order"),
        (
            {"messages": [user("x"), {"role": "system", "content": "s"}, bot("z")]},
            "messages[1].content",
            "role_order",
        ),
        ({"messages": [user("x")]}, "messages", "no_assistant"),
        ({"messages": [user("x"), bot("y"), user("z")]}, "messages[2].content", "last_turn"),
        ({"messages": [user("x"), bot("y")], "id": ["a"]}, "id", "wrong_type"),
        (
            {"conversations": [{"from": "human", "value": 1}]},
            "conversations[0].value",
            "wrong_type",
        ),
        ({"instruction": "x"}, "output", "missing_field"),
        ({"instruction": "x", "output": "y", "history": [["a"]]}, "history[0]", "wrong_type"),
        ({"words": "plain"}, "", "unknown_format"),
    ],
)
def test_each_fault_is_named_by_field_and_code(
    tmp_path: Path, value: object, field: str, code: str
) -> None:
    # a good row of the same format beside it, so that the file's format is known
    good = (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
        if isinstance(value, dict) and "conversations" in value
        else {"instruction": "q", "output": "a"}
        if isinstance(value, dict) and "instruction" in value
        else row("q", "a")
    )
    lines = [value] if code == "unknown_format" else [good, value]
    path = put(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    found = [(p.line, p.field, p.code) for p in read_file(path).problems]
    assert (len(lines), field, code) in found
    assert str(path) in problem_of(path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, GOOD + '\n{"messages": [], "messages": []}\n')
    (found,) = read_file(path).problems
    assert (found.line, found.field, found.code) == (2, "messages", "duplicate_key")


def test_all_faults_of_a_row_and_of_a_file_are_collected(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "x", "content": 1}, {"role": "user"}], "topic": 1.5}
    path = put(tmp_path, "\n".join(["{", json.dumps(bad), GOOD, "null"]))
    loaded = read_file(path)
    assert {p.line for p in loaded.problems} == {1, 2, 4}
    assert len([p for p in loaded.problems if p.line == 2]) == 4
    assert [s.line for s in loaded.samples] == [3]


def test_digest_follows_the_rows_and_not_the_place(write: Callable[..., Path]) -> None:
    folder = write([row("a", "b")], [row("c", "d")])
    before = dataset_digest(folder)
    copy = folder.rename(folder.with_name("moved"))
    (copy / "README.md").write_text("words", encoding="utf-8")
    assert dataset_digest(copy) == before
    write([row("a", "b!")], [row("c", "d")])
    assert dataset_digest(folder) != before
