"""Texts of characters that melt, vanish, grow or have doubles; a plain search to compare with."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

from slipway.core.errors import InputError
from slipway.gateway.filter.matcher import Matcher
from slipway.gateway.filter.normalise import Gaps, Normaliser
from slipway.gateway.filter.words import Mode, Rule, Word

PLAIN = "aAbeExX"
MELTING = (
    "éÉ\u0301\u0300\u0323\u0302ệ\u0345αάᾳñ\u0303かが\u3099ハﾊ\uff9fパ각\u1100\u1161\u11a8가ㄱㅏ"
)
DOUBLES = "ＡａＢ法轮輪功發发髮Ω\u212aKk①1"
GROWING = "ﬁfißsSſİiŉ…㈠一㍿株½"
VANISHING = "\u200b\u00ad\ufe0f\u2060\u3164\U000e0061\x00\u0334\u20dd"
SPACES = "  \u3000\n\u00a0.。_-,、"
ODD = "\ud800\U0001f600\U0010ffff\ufffdก\u0e38\u0e33"
NASTY = PLAIN + MELTING + DOUBLES + GROWING + VANISHING + SPACES + ODD

chars = st.sampled_from(NASTY)
few = st.sampled_from("aAbé\u0301e法轮 .か\u3099\u200b")
words = st.lists(
    st.text(chars, min_size=1, max_size=5) | st.text(few, min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@st.composite
def word_lists_and_texts(draw: st.DrawFn) -> tuple[list[str], str]:
    """Some words, and a text in which they, their beginnings and other characters stand."""
    listed = draw(words)
    whole = st.sampled_from(listed)
    cut = st.builds(lambda word, size: word[:size], whole, st.integers(1, 4))
    pieces = st.lists(whole | cut | st.text(chars, max_size=3) | st.text(few, max_size=4))
    return listed, "".join(draw(pieces))


def usable(listed: list[str], normaliser: Normaliser) -> tuple[Word, ...]:
    """The words that a matcher takes."""
    kept = []
    for text in listed:
        try:
            Matcher([Rule("one", (Word(text),))], normaliser)
        except InputError:
            continue
        kept.append(Word(text))
    return tuple(kept)


def matcher_for(
    listed: list[str], gaps: Gaps = "keep", *, mode: Mode = "audit", whole_words: bool = False
) -> Matcher:
    normaliser = Normaliser(gaps=gaps)
    kept = usable(listed, normaliser)
    return Matcher([Rule("all", kept, mode=mode, whole_words=whole_words)], normaliser)


def is_latin(char: str) -> bool:
    """A letter or digit of a script with spaces, by the names of characters."""
    name = unicodedata.name(char, "")
    unspaced = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "IDEOGRAPHIC")
    return char.isalnum() and not name.startswith(unspaced)


def plain_search(
    listed: set[str], text: str, *, whole_words: bool = False
) -> list[tuple[int, int]]:
    """Where normal words stand in a normal text, by comparing at each place; by end, then start."""
    found = []
    for end in range(1, len(text) + 1):
        for start in range(end):
            word = text[start:end]
            if word not in listed:
                continue
            left = start > 0 and is_latin(text[start - 1]) and is_latin(text[start])
            right = end < len(text) and is_latin(text[end]) and is_latin(text[end - 1])
            if not (whole_words and (left or right)):
                found.append((start, end))
    return found


def cut_up(text: str, sizes: list[int]) -> list[str]:
    """A text in pieces of these sizes, again and again."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[at : at + size])
        at, turn = at + size, turn + 1
    return pieces
