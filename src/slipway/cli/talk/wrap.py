"""Word wrap for text that arrives piece by piece, with the width that a terminal shows."""

from __future__ import annotations

import unicodedata

_MARGIN = 4
_NARROWEST = 20
# may not begin a line; they hang over into the margin
_CLOSING = frozenset("，。、；：？！）》」』】〉”’…,.;:?!)]}")
_FENCE = "```"


def width_of(text: str) -> int:
    """Columns that a text takes in a terminal: two for Chinese characters, none for accents."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def printable(text: str) -> str:
    """The text without control characters: a model's answer must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


class Wrapper:
    """Breaks lines between words, or between Chinese characters; code blocks stay as they are.

    A word is shown as it comes; when it turns out too long for the line, it is taken back and
    begun anew on the next one.

    Args:
        columns: the terminal's width.
    """

    def __init__(self, columns: int) -> None:
        self._limit = max(columns, _NARROWEST) - _MARGIN
        self._column = 0
        self._word = ""
        self._line_start = ""
        self._in_code = False

    def feed(self, text: str) -> str:
        """What to print for the next piece, moves of the cursor included."""
        return "".join(self._put(character) for character in printable(text))

    def _put(self, character: str) -> str:
        if character == "\n":
            return self._end_line()
        if len(self._line_start) < len(_FENCE):
            self._line_start += character
        columns = 4 if character == "\t" else _columns(character)
        shown = "    " if character == "\t" else character
        if self._in_code or self._line_start.startswith(_FENCE):
            return shown
        broken = ""
        room = self._limit + (_MARGIN - 1 if character in _CLOSING else 0)
        over = self._column + columns > room
        if character in " \t":
            self._word = ""
            if over:
                self._column = 0
                return "\n"
        elif columns == 2:
            if over:
                broken, self._column = "\n", 0
            self._word = ""
        else:
            if over:
                broken = self._take_back()
            self._word += character
        self._column += columns
        return broken + shown

    def _end_line(self) -> str:
        if self._line_start.startswith(_FENCE):
            self._in_code = not self._in_code
        self._column, self._word, self._line_start = 0, "", ""
        return "\n"

    def _take_back(self) -> str:
        """Move the begun word to the next line; one that fills a whole line is cut."""
        word, width = self._word, width_of(self._word)
        if not word or width >= self._limit // 2:
            self._word, self._column = "", 0
            return "\n"
        self._column = width
        return f"\x1b[{width}D\x1b[K\n{word}"
