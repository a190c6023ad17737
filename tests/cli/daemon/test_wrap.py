from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.cli.talk.wrap import Wrapper, printable, width_of


def shown(pieces: list[str], columns: int = 24) -> str:
    """What stands on the screen: the moves back are played."""
    wrapper = Wrapper(columns)
    lines = [""]
    for move, text in re.findall(
        r"\x1b\[(\d+)D\x1b\[K|([^\x1b])", "".join(map(wrapper.feed, pieces))
    ):
        if move:
            lines[-1] = lines[-1][: len(lines[-1]) - int(move)]
        elif text == "\n":
            lines.append("")
        else:
            lines[-1] += text
    return "\n".join(lines)


def test_a_word_that_does_not_fit_moves_to_the_next_line_even_when_it_came_in_pieces() -> None:
    text = "one two three four five six"
    assert shown(["one two three four fi", "ve six"]) == "one two three four \nfive six"
    assert shown(list(text)) == shown([text])


def test_chinese_breaks_between_characters_but_not_before_a_full_stop() -> None:
    assert shown(["一二三四五六七八九十百千"]) == "一二三四五六七八九十\n百千"
    assert shown(["一二三四五六七八九十。百"]) == "一二三四五六七八九十。\n百"


def test_code_blocks_and_long_addresses_keep_their_characters() -> None:
    code = "```\n" + "x = 1; " * 10 + "\n```\n"
    assert shown([code]) == code
    address = "https://example.org/" + "a" * 60
    assert shown([address]).replace("\n", "") == address


def test_control_characters_of_an_answer_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\tc\n\x9b") == "a]0;titleb\tc\n"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("中文", 4), ("é", 1), ("é", 1)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@given(st.text(alphabet="ab ,.中文。\n", max_size=200), st.integers(20, 50))
def test_nothing_is_lost_and_no_line_is_wider_than_the_terminal(text: str, columns: int) -> None:
    screen = shown(list(text), columns)
    assert screen.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert all(width_of(line) <= columns for line in screen.split("\n"))
