"""Words and texts come to one form, and every place of it leads back to the text as written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.filter.nasty_texts import NASTY

from slipway.gateway.filter.characters import is_decoration, sort_of
from slipway.gateway.filter.normalise import Normaliser

plain = Normaliser()


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("ＦＵＣＫ", "fuck"),
        ("F\u200bu\u00adc\ufeffk", "fuck"),
        ("f\u0336u\u0336c\u0336k\u0336", "fuck"),
        ("STRAẞE", "strasse"),
        ("ﬁre", "fire"),
        ("法輪功", "法轮功"),
        ("發財 頭髮", "发财 头发"),
        ("cafe\u0301", "café"),
        ("ｶﾞ", "ガ"),
        ("①②", "12"),
        ("a\u3000b\tc\n", "a b c "),
        ("\ud800", "\ufffd"),
        ("\U0010ffff", "\U0010ffff"),
        ("", ""),
    ],
)
def test_a_text_is_read_through_its_disguise(written: str, normal: str) -> None:
    assert plain(written).text == normal


def test_traditional_characters_stay_when_not_asked_for() -> None:
    assert Normaliser(chinese=False)("法輪功").text == "法輪功"


@pytest.mark.parametrize(
    ("gaps", "written", "normal"),
    [
        ("keep", "法 轮。功", "法 轮。功"),
        ("spaces", "法 \n轮。功", "法轮。功"),
        ("punctuation", "法 轮。*功", "法轮功"),
        ("punctuation", "法,a,轮", "法,a,轮"),
        ("punctuation", "bad, bad", "bad, bad"),
        ("punctuation", "法" + "." * 9 + "轮", "法" + "." * 9 + "轮"),
        ("punctuation", "法…轮", "法轮"),
        ("spaces", "한 국", "한 국"),
        ("punctuation", "㈠㈠ 一", "(一)(一) 一"),
    ],
)
def test_gaps_between_chinese_characters_are_passed_over_when_asked_for(
    gaps: str, written: str, normal: str
) -> None:
    assert Normaliser(gaps=gaps)(written).text == normal  # type: ignore[arg-type]


texts = st.text(st.sampled_from(NASTY) | st.characters(max_codepoint=0x2FFF), max_size=20)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_normalising_by_segments_is_normalising_the_whole(text: str) -> None:
    whole = "".join(char for char in text if sort_of(char) != "nothing")
    whole = unicodedata.normalize("NFKD", whole).replace("\u0345", "")
    whole = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", whole).casefold())
    expected = "".join(
        " " if char.isspace() else "\ufffd" if "\ud800" <= char <= "\udfff" else char
        for char in whole
        if not is_decoration(char)
    )
    assert Normaliser(chinese=False)(text).text == expected


@settings(max_examples=300, deadline=None)
@given(texts, st.sampled_from(("keep", "spaces", "punctuation")))
def test_places_lead_back_in_order_and_within_the_text(text: str, gaps: str) -> None:
    view = Normaliser(gaps=gaps)(text)  # type: ignore[arg-type]
    places = [(view.start(n), view.end(n + 1)) for n in range(len(view.text))]
    for start, end in places:
        assert 0 <= start < end <= len(text)
    assert places == sorted(places)
    for n, (start, end) in enumerate(places):
        # what a character came from gives that character again
        assert view.text[n] in Normaliser(gaps="keep")(text[start:end]).text


def test_places_behind_characters_that_grew_and_vanished() -> None:
    view = plain("…ﬁ\u200bn\u200bd")
    assert view.text == "...find"
    assert [view.start(n) for n in range(7)] == [0, 0, 0, 1, 1, 3, 5]
    assert [view.end(n + 1) for n in range(7)] == [1, 1, 1, 2, 2, 4, 6]


def test_a_long_plain_text_keeps_its_places_without_a_map() -> None:
    assert plain("word " * 1000).steps == ()
