"""A stream finds what a plain search finds, forwards what is not blocked, and nothing that is."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.gateway.filter.nasty_texts import (
    cut_up,
    matcher_for,
    plain_search,
    usable,
    word_lists_and_texts,
)

from slipway.gateway.filter.matcher import Matcher
from slipway.gateway.filter.normalise import Gaps, Normaliser
from slipway.gateway.filter.stream import StreamMatcher
from slipway.gateway.filter.words import Rule, Word, words_of

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=5)
GAPS: st.SearchStrategy[Gaps] = st.sampled_from(("keep", "spaces", "punctuation"))


def normal_words(matcher: Matcher) -> set[str]:
    return set(matcher._words)


def words_in(matcher: Matcher, listed: list[str]) -> tuple[Word, ...]:
    return usable(list(dict.fromkeys(listed)), matcher.normaliser)


def run(matcher: Matcher, pieces: list[str]) -> tuple[str, StreamMatcher]:
    stream = StreamMatcher(matcher)
    out = "".join([*[stream.feed(piece) for piece in pieces], stream.finish()])
    return out, stream


@settings(max_examples=300, deadline=None)
@given(word_lists_and_texts(), SIZES, GAPS, st.booleans())
def test_a_stream_finds_what_a_plain_search_of_the_whole_text_finds(
    case: tuple[list[str], str], sizes: list[int], gaps: Gaps, whole_words: bool
) -> None:
    listed, text = case
    matcher = matcher_for(listed, gaps, whole_words=whole_words)
    view = matcher.normaliser(text)
    expected = plain_search(normal_words(matcher), view.text, whole_words=whole_words)
    out, stream = run(matcher, cut_up(text, sizes))
    normal = {one.word: matcher.normaliser(one.word).text.strip() for one in stream.hits}
    found = [(hit.start, normal[hit.word]) for hit in stream.hits]
    # two words of a list may be the same normal word; each is told
    times = Counter(
        matcher.normaliser(word.text).text.strip() for word in words_in(matcher, listed)
    )
    places = [
        (view.start(start), view.text[start:end])
        for start, end in expected
        for _ in range(times[view.text[start:end]])
    ]
    assert sorted(found) == sorted(places)
    assert [word for _, word in found] == [word for _, word in places]
    assert out == text


@settings(max_examples=200, deadline=None)
@given(word_lists_and_texts(), SIZES, GAPS)
def test_what_is_forwarded_of_a_blocked_text_ends_before_the_match_however_it_is_cut(
    case: tuple[list[str], str], sizes: list[int], gaps: Gaps
) -> None:
    listed, text = case
    matcher = matcher_for(listed, gaps, mode="block")
    whole, at_once = run(matcher, [text] if text else [])
    out, stream = run(matcher, cut_up(text, sizes))
    assert out == whole
    assert [(hit.word, hit.start) for hit in stream.hits] == [
        (hit.word, hit.start) for hit in at_once.hits
    ]
    if stream.blocked is None:
        assert out == text
    else:
        assert text.startswith(out) and len(out) <= stream.blocked.start
        if gaps == "keep":  # else the beginning of a text may read otherwise than the whole
            assert not plain_search(normal_words(matcher), matcher.normaliser(out).text)


@settings(max_examples=100, deadline=None)
@given(word_lists_and_texts(), SIZES, GAPS)
def test_words_that_are_only_noted_hold_nothing_back(
    case: tuple[list[str], str], sizes: list[int], gaps: Gaps
) -> None:
    listed, text = case
    stream = StreamMatcher(matcher_for(listed, gaps, mode="audit"))
    for piece in cut_up(text, sizes):
        assert stream.feed(piece) == piece
    assert stream.finish() == ""


@settings(max_examples=100, deadline=None)
@given(word_lists_and_texts(), word_lists_and_texts(), SIZES, GAPS)
def test_noted_and_blocking_words_together_are_found_up_to_the_block(
    case: tuple[list[str], str], other: tuple[list[str], str], sizes: list[int], gaps: Gaps
) -> None:
    normaliser = Normaliser(gaps=gaps)
    rules = [
        Rule("noted", usable(case[0], normaliser), mode="audit"),
        Rule("blocking", usable(other[0], normaliser), mode="block"),
    ]
    matcher = Matcher(rules, normaliser)
    text = case[1] + other[1]
    whole, at_once = run(matcher, [text] if text else [])
    out, stream = run(matcher, cut_up(text, sizes))
    assert out == whole
    assert [(hit.rule, hit.word) for hit in stream.hits] == [
        (hit.rule, hit.word) for hit in at_once.hits
    ]


simple = st.text(st.sampled_from("aAb法轮 "), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(simple, min_size=1, max_size=5), st.lists(st.tuples(st.lists(simple), SIZES)))
def test_what_a_stream_learned_from_others_does_not_change_what_it_does(
    listed: list[str], cases: list[tuple[list[str], list[int]]]
) -> None:
    matcher = matcher_for(listed, mode="block")
    words = normal_words(matcher)
    beginnings = {word[:size] for word in words for size in range(1, len(word) + 1)}
    for parts, sizes in cases:
        text = "".join(parts)
        normal = matcher.normaliser(text).text
        ends = [end for _, end in plain_search(words, normal)]
        upto = len(text)
        if ends:
            upto = min(n for n in range(ends[0]) if normal[n : ends[0]] in beginnings)
        for _ in range(2):
            out, stream = run(matcher, cut_up(text, sizes))
            assert out == text[:upto]
            assert (stream.blocked is not None) == bool(ends)


def blocking(*texts: str, gaps: Gaps = "keep") -> StreamMatcher:
    return StreamMatcher(Matcher([Rule("r", words_of(texts))], Normaliser(gaps=gaps)))


def test_only_what_can_still_become_a_match_is_held_back() -> None:
    stream = blocking("法轮功")
    assert stream.feed("今天") == "今天"
    assert stream.feed("的方法") == "的方"
    assert stream.feed("很好") == "法很好"


def test_the_longest_word_is_never_waited_for_without_reason() -> None:
    stream = blocking("x" * 200)
    assert stream.feed("no such letter here ") == "no such letter here "


def test_a_letter_waits_for_its_accent_only_when_a_word_has_the_accented_one() -> None:
    assert blocking("cafe").feed("the tre") == "the tre"
    stream = blocking("élan")
    assert stream.feed("the tre") == "the tr"
    assert stream.feed("e ") == "ee "
    assert stream.feed("e") == ""
    assert stream.feed("\u0301lan!") == ""
    assert stream.blocked is not None


def test_nothing_follows_a_block() -> None:
    stream = blocking("bad")
    assert stream.feed("all b") == "all "
    assert stream.feed("ad and more") == ""
    assert stream.blocked is not None and stream.blocked.start == 4
    assert stream.feed("more") == "" and stream.finish() == ""


def test_a_word_in_a_word_waits_for_the_longer_one_and_shows_neither() -> None:
    stream = blocking("bcd", "abcdef")
    assert [stream.feed(char) for char in "xabcdef"] == ["x", "", "", "", "", "", ""]
    assert stream.blocked is not None and stream.blocked.word == "bcd"


def test_a_match_is_told_once_when_the_text_is_kept_from_within_a_character() -> None:
    noted = Matcher([Rule("r", words_of(["fi", "ix"]), mode="audit")], Normaliser())
    _, stream = run(noted, ["ﬁ", "x", "!", "?"])
    assert [hit.word for hit in stream.hits] == ["fi", "ix"]


def test_places_count_characters_of_the_text_as_written() -> None:
    stream = blocking("法轮功")
    for piece in ("一\u200b二", "\u200b\u200b法", "\u200b輪", "功。"):
        stream.feed(piece)
    assert stream.blocked is not None
    assert (stream.blocked.start, stream.blocked.end) == (5, 9)


def test_a_stream_of_invisible_characters_is_let_through_and_not_kept() -> None:
    stream = blocking("法轮功")
    for _ in range(500):
        assert stream.feed("\u200b") == "\u200b"
    assert stream._raw == "" and stream._invisible == {}


def test_many_marks_on_a_letter_are_not_gathered_without_end() -> None:
    stream = blocking("élan")
    sent = "".join(stream.feed("e" if n == 0 else "\u0316") for n in range(500))
    assert len(stream._raw) < 40 and len(sent) > 400
