"""Word lists and rules: what is read, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.core.errors import InputError, NotFoundError
from slipway.gateway.filter import Rule, Word, load_words, parse_words, words_of
from slipway.gateway.filter.normalise import Normaliser


def test_a_list_has_one_word_a_line_with_comments_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# ours\r\n\r\n法轮功\tpolitics\r\n  bad word \n\\#tag\n".encode())
    words = load_words(path)
    assert [(word.text, word.group) for word in words] == [
        ("法轮功", "politics"),
        ("bad word", ""),
        ("#tag", ""),
    ]
    assert words[1].origin == f"{path}:4"


def test_a_list_of_new_api_is_read_unchanged() -> None:
    assert [word.text for word in parse_words("test_sensitive\n敏感词\n", "options")] == [
        "test_sensitive",
        "敏感词",
    ]


def test_a_separator_of_unicode_does_not_end_a_line() -> None:
    assert [word.text for word in parse_words("a\u2028b\x0cc", "x")] == ["a\u2028b\x0cc"]


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"good\na\tb\tc\n", "filter.bad_line", 2),
        (b"good\n\xb7\xa8\xc2\xd6\n", "filter.not_utf8", 2),
        (b"x" * 201, "filter.long_word", 1),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes, code: str, line: int) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_words(path)
    assert caught.value.code == code
    assert f"{path}:{line}" in caught.value.message_en


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no_list"):
        load_words(tmp_path / "none.txt")
    with pytest.raises(InputError, match="unreadable"):
        load_words(tmp_path)


def test_a_rule_takes_only_its_groups_and_refuses_unknown_ones() -> None:
    words = (Word("a", "x"), Word("b", "y"), Word("c"))
    assert [w.text for w in Rule("r", words, groups=frozenset({"y"})).chosen()] == ["b"]
    assert len(list(Rule("r", words).chosen())) == 3
    with pytest.raises(InputError, match="no_group"):
        Rule("r", words, groups=frozenset({"z"}))


@pytest.mark.parametrize("field", ["mode", "where"])
def test_a_rule_with_an_unknown_value_is_refused(field: str) -> None:
    with pytest.raises(InputError) as caught:
        Rule("r", (), **{field: "loud"})  # type: ignore[arg-type]
    assert field in caught.value.message_en and "loud" in caught.value.message_en


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("\u200b", "filter.empty_word"),
        ("\u3000", "filter.empty_word"),
        ("\u3099a", "filter.mark_first"),
        ("㍿" * 60, "filter.long_word"),
    ],
)
def test_a_word_that_cannot_be_searched_is_refused_with_its_line(text: str, code: str) -> None:
    from slipway.gateway.filter.matcher import Matcher

    with pytest.raises(InputError) as caught:
        Matcher([Rule("r", (Word(text, origin="list.txt:7"),))], Normaliser())
    assert caught.value.code == code
    assert caught.value.message_en.startswith("list.txt:7: ")
    assert not words_of(())
