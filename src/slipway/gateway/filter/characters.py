"""What the filter knows of single characters and of those that melt together.

A *segment* is a character that stands for itself and the marks behind it (`e` + acute accent).
Segments are normalised one by one, so a text can be normalised piece by piece as it arrives:
nothing before a segment's first character can change what comes after (UAX #15, section 9.1).
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from typing import Literal

Sort = Literal["letter", "mark", "nothing"]
"""`letter` opens a segment, `mark` melts into the one before, `nothing` is taken out."""

MAX_MARKS = 30
"""Marks in one segment; more open a new one (Stream-Safe Text Format, UAX #15 section 13)."""

# Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt)
_IGNORABLE = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5),
    (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
# blocks of diacritical marks: over, under and through a letter, they decorate it
_DECORATION = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF),
               (0xFE20, 0xFE2F))  # fmt: skip
_SUBSCRIPT_IOTA = "\u0345"
"""A mark that case folding would make a letter; read as decoration."""
_HANGUL_LEADS = (0x1100, 0x1112)
_HANGUL_TAILS = ((0x1161, 0x1175), (0x11A8, 0x11C2))
_LAST_WITH_PAIRS = 0x20000
"""No character from here on is the sum of two others."""

CJK = "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff"
CJK += "\U00020000-\U000323af"
"""Han, kana and bopomofo as a regular expression's class: written without spaces.

Korean is not in it: it has spaces between its words.
"""


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


@cache
def _pairs() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that can take a following one into themselves, and those that can be taken in."""
    firsts = {chr(code) for code in range(_HANGUL_LEADS[0], _HANGUL_LEADS[1] + 1)}
    seconds = {chr(code) for low, high in _HANGUL_TAILS for code in range(low, high + 1)}
    for code in range(_LAST_WITH_PAIRS):
        parts = unicodedata.decomposition(chr(code))
        if parts and parts[0] != "<" and " " in parts:
            first, second = (chr(int(part, 16)) for part in parts.split())
            firsts.add(unicodedata.normalize("NFD", first)[0])
            seconds.add(second)
    return frozenset(firsts), frozenset(seconds)


@lru_cache(4096)
def sort_of(char: str) -> Sort:
    """Whether a character opens a segment, joins one, or is taken out."""
    code = ord(char)
    if _within(code, _IGNORABLE):
        return "nothing"
    if unicodedata.category(char) == "Cc" and not char.isspace():
        return "nothing"
    first = unicodedata.normalize("NFKD", char)[0]
    if unicodedata.combining(first) or first in _pairs()[1]:
        return "mark"
    return "letter"


@lru_cache(4096)
def may_change(folded: str) -> bool:
    """Whether a mark that follows can change a normalised segment (`e` may become `é`)."""
    firsts = _pairs()[0]
    return any(char in firsts for char in unicodedata.normalize("NFD", folded))


def bases_of(chars: set[str]) -> frozenset[str]:
    """The letters out of which marks could make one of `chars` (`e` for `é`)."""
    plain = ((char, unicodedata.normalize("NFD", char)) for char in chars)
    return frozenset(whole[0] for char, whole in plain if whole != char)


def is_word_char(char: str) -> bool:
    """Whether a character belongs to a word of a script that parts its words by spaces."""
    return char.isalnum() and not _is_unspaced(char)


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return 0x0E00 <= code <= 0x0EFF or 0x2E80 <= code <= 0xA4CF or code >= 0x20000


def fold(segment: str, variants: dict[int, str]) -> str:
    """The normal form of one segment: NFKC, case folded, NFKC, without decoration.

    Args:
        segment: without characters that are taken out.
        variants: code point -> the character it is read as (traditional -> simplified).
    """
    text = unicodedata.normalize("NFKD", segment).replace(_SUBSCRIPT_IOTA, "")
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFKC", text)
    return "".join(_plain(char) for char in text if not is_decoration(char)).translate(variants)


def is_decoration(char: str) -> bool:
    """Whether a mark that melted into no letter only decorates: strokes, circles, stacked dots."""
    return _within(ord(char), _DECORATION) or unicodedata.category(char) == "Me"


def _plain(char: str) -> str:
    if char.isspace():
        return " "
    return "\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char
