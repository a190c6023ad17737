"""JSON lines and JSON lists into rows, read piece by piece; each fault named by its line.

A file is UTF-8. A byte order mark and Windows line ends are read as if they were not there. Lines
are cut at "\\n" only, because JSON strings may hold other characters that Unicode counts as breaks.

Two parsers: a quick one, which keeps the last of two equal keys in silence, and a careful one. The
quick one's result is taken where it can be shown that no key stands twice; see `_unique`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import orjson

from slipway.core.i18n import Text, tr
from slipway.datasets.model import RawRow, RowProblem

BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_SPACE = " \t\r\n"
_QUICK = json.JSONDecoder()


def line_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """The rows of JSON lines, one line in memory at a time.

    Args:
        data: open at the start of the file.
    """
    for number, line in enumerate(data, start=1):
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except ValueError:
            yield _careful_line(file, number, line)
            continue
        if isinstance(value, dict) and _unique(value, line):
            yield RawRow(file, number, value)
        else:
            yield _careful_line(file, number, line)


def _unique(value: dict[str, Any], line: bytes) -> bool:
    """Whether no object in `line` has a key twice, shown without parsing again.

    Each key ends with a quotation mark, then spaces, then a colon. Without a space before any
    colon, each key is one `":` of the line, so there are no more keys than `":`; if parsing kept
    as many keys as there are `":`, it has dropped none.
    """
    if b" :" in line or b"\t:" in line or b"\r:" in line:
        return False
    try:
        return line.count(b'":') == count_keys(value)
    except RecursionError:
        return False


def count_keys(value: dict[str, Any] | list[Any]) -> int:
    """The keys of all objects in a JSON value; parsers let none be deeper than Python can go."""
    count = len(value) if type(value) is dict else 0
    items: Iterable[Any] = value.values() if type(value) is dict else value
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            count += count_keys(item)
    return count


def _careful_line(file: Path, number: int, line: bytes) -> RawRow | RowProblem:
    try:
        text = line.rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        return problem(file, number, "encoding", not_utf8(line, error))
    try:
        return checked(file, number, careful(text))
    except DuplicateKey as duplicate:
        return problem(file, number, "duplicate_key", twice(duplicate), str(duplicate))
    except (ValueError, RecursionError) as error:
        return problem(file, number, "broken_json", _broken(error))


def careful(text: str) -> Any:
    """Parse JSON; a key that stands twice in an object is an error.

    Raises:
        DuplicateKey, ValueError, RecursionError: it is not JSON, or not such JSON.
    """
    return json.loads(text, object_pairs_hook=_unique_keys)


def checked(file: Path, line: int, value: Any) -> RawRow | RowProblem:
    """The row, if it is an object whose texts can be written as UTF-8."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        reason = tr("a row must be an object, not {kind}", kind=kind)
        return problem(file, line, "wrong_type", reason)
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        reason = tr("a text holds half of a character (a single \\uD800 to \\uDFFF)")
        return problem(file, line, "encoding", reason)
    except RecursionError as error:
        return problem(file, line, "broken_json", _broken(error))
    return RawRow(file, line, value)


class DuplicateKey(Exception):
    """A key stands twice in one object; the later value would win in silence."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        raise DuplicateKey(next(key for key in names if names.count(key) > 1))
    return value


_CAREFUL = json.JSONDecoder(object_pairs_hook=_unique_keys)


class _Pieces:
    """A text that is read on when more of it is needed, and forgotten behind.

    Attributes:
        text: what is held.
        at: where we are in it.
        line: the line of `at`, from 1.
    """

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._counted = 0
        self._column = 0  # characters of the first line of `text` that are forgotten
        self._bytes = _CHUNK_BYTES
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def more(self) -> None:
        """Read on, each time twice as much while nothing could be forgotten.

        Raises:
            _NotText: the bytes are not UTF-8.
        """
        self.mark()
        if self.at:
            broke = self.text.rfind("\n", 0, self.at)
            self._column = self.at - broke - 1 if broke >= 0 else self._column + self.at
            self.text, self.at, self._counted = self.text[self.at :], 0, 0
            self._bytes = _CHUNK_BYTES
        else:
            self._bytes *= 2
        piece = self._data.read(self._bytes)
        self.ended = not piece
        try:
            self.text += self._decode.decode(piece, final=self.ended)
        except UnicodeDecodeError as error:
            whole = error.object
            line = self.line + self.text.count("\n", self.at) + whole.count(b"\n", 0, error.start)
            raise _NotText(line, not_utf8(whole, error)) from error

    def mark(self) -> None:
        """Bring `line` to where `at` is."""
        self.line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at

    def broken(self, file: Path, error: json.JSONDecodeError) -> RowProblem:
        """The problem with its line and column in the file."""
        line = self.line + self.text.count("\n", self._counted, error.pos)
        begun = self.text.rfind("\n", 0, error.pos) + 1
        column = error.pos - begun + 1 + (0 if begun else self._column)
        return problem(file, line, "broken_json", _broken_at(error.msg, column))

    def skip(self) -> str:
        """Go over spaces; the character after them, empty at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.more()

    def value(self) -> Any:
        """The JSON value that begins here, which may be larger than a piece."""
        while True:
            try:
                value, end = _QUICK.raw_decode(self.text, self.at)
                if end == len(self.text) and not self.ended:  # a number may go on
                    self.more()
                    continue
                if not self._unique(value, end):
                    value, end = _CAREFUL.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self.text) - 16 or error.msg.startswith("Unterminated")
                if self.ended or not cut:
                    raise
                self.more()
                continue
            self.at = end
            return value

    def _unique(self, value: Any, end: int) -> bool:
        if type(value) is not dict:
            return type(value) is not list
        text, at = self.text, self.at
        spaced = any(text.find(pair, at, end) >= 0 for pair in (" :", "\t:", "\r:", "\n:"))
        return not spaced and text.count('":', at, end) == count_keys(value)


class _NotText(Exception):
    def __init__(self, line: int, reason: Text) -> None:
        super().__init__(line)
        self.line = line
        self.reason = reason


def list_rows(file: Path, data: IO[bytes]) -> Iterator[RawRow | RowProblem]:
    """The rows of one JSON list, in constant memory.

    Args:
        data: open at the start of the file, whose first character is `[`.
    """
    pieces = _Pieces(data)
    try:
        yield from _items(file, pieces)
    except _NotText as error:
        yield problem(file, error.line, "encoding", error.reason)
    except DuplicateKey as duplicate:
        # what follows could still be read, but a list is one document, and it is wrong
        yield problem(file, pieces.line, "duplicate_key", twice(duplicate), str(duplicate))
    except json.JSONDecodeError as error:
        # the rest of a broken list cannot be told apart into rows
        yield pieces.broken(file, error)
    except RecursionError as error:
        yield problem(file, pieces.line, "broken_json", _broken(error))


def _items(file: Path, pieces: _Pieces) -> Iterator[RawRow | RowProblem]:
    pieces.skip()
    pieces.at += 1
    character = pieces.skip()
    while character not in ("]", ""):
        pieces.mark()
        line = pieces.line
        value = pieces.value()
        character = pieces.skip()
        if character not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' or ']'", pieces.text, pieces.at)
        yield RawRow(file, line, value) if _plain(value) else checked(file, line, value)
        if character == ",":
            pieces.at += 1
            character = pieces.skip()
    pieces.mark()
    if not character:
        yield problem(file, pieces.line, "broken_json", tr("the list is not closed with `]`"))
        return
    pieces.at += 1
    if pieces.skip():
        pieces.mark()
        reason = tr("something stands after the list's `]`")
        yield problem(file, pieces.line, "broken_json", reason)


def _plain(value: Any) -> bool:
    """Whether a row is an object without half characters; the quick test of `checked`."""
    try:
        orjson.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return type(value) is dict


def problem(file: Path, line: int, code: str, reason: Text, field: str = "") -> RowProblem:
    """What is wrong with a row."""
    return RowProblem(file, line, field, code, reason)


def twice(key: DuplicateKey) -> Text:
    """The reason given for a key that stands twice."""
    return tr("the key `{key}` stands twice in one object", key=str(key))


def _broken(error: Exception) -> Text:
    if isinstance(error, RecursionError):
        return _broken_at("nested too deeply", 0)
    if isinstance(error, json.JSONDecodeError):
        return _broken_at(error.msg, error.colno)
    return _broken_at(str(error), 0)


def _broken_at(reason: str, column: int) -> Text:
    return tr("broken JSON: {reason} at column {column}", reason=reason, column=column)


def not_utf8(data: bytes, error: UnicodeDecodeError) -> Text:
    """The reason given for bytes that are not UTF-8; a guess at GBK comes with the remedy."""
    byte = f"0x{data[error.start]:02x}"
    try:
        codecs.getincrementaldecoder("gb18030")().decode(data)
    except UnicodeDecodeError:
        return tr("not UTF-8: byte {byte}", byte=byte)
    return tr(
        "not UTF-8: byte {byte}; it may be GBK, then convert it with "
        "`iconv -f gb18030 -t utf-8 OLD > NEW`",
        byte=byte,
    )
