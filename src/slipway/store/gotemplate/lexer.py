"""Text and actions of a template, and the tokens of an action.

The language is that of Go's package text/template (https://pkg.go.dev/text/template).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from slipway.store.gotemplate.nodes import TemplateError

Kind = Literal["word", "field", "variable", "value", "sign", "space", "dot"]

_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<raw>`[^`]*`)
  | (?P<char>'(?:[^'\\\n]|\\.[^']*)')
  | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+
      |(?:\d[\d_]*)?\.?\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?))(?![\w.])
  | (?P<field>\.[^\W\d]\w*)
  | (?P<variable>\$\w*)
  | (?P<word>[^\W\d]\w*)
  | (?P<sign>:=|=|\||\(|\)|,)
  | (?P<dot>\.)
    """,
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_ESCAPES |= {"a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(
    r"\\(?:(?P<one>[abfnrtv\\'\"])|x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})"
    r"|U(?P<U>[0-9a-fA-F]{8})|(?P<o>[0-7]{3})|(?P<bad>.))",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an action; `value` holds what a literal stands for."""

    kind: Kind
    text: str
    line: int
    value: Any = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text, or an action's tokens (None for text)."""

    line: int
    text: str
    tokens: tuple[Token, ...] | None


def pieces(source: str) -> list[Piece]:
    """Cut a template into text and actions; trim marks and comments are carried out.

    Raises:
        TemplateError: an action does not end, or holds what is no token.
    """
    found: list[Piece] = []
    at, trim = 0, False
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        line = source.count("\n", 0, at) + 1
        if trim:
            text = text.lstrip(_SPACE)
        if start < 0:
            found.append(Piece(line, text, None))
            return [piece for piece in found if piece.tokens is not None or piece.text]
        inner = start + 2
        if source.startswith("-", inner) and source[inner + 1 : inner + 2] in _SPACE_SET:
            text = text.rstrip(_SPACE)
            inner += 1
        found.append(Piece(line, text, None))
        line = source.count("\n", 0, start) + 1
        if source[inner:].lstrip(_SPACE).startswith("/*"):
            at, trim = _after_comment(source, inner, line)
            continue
        tokens, at, trim = _action(source, inner)
        found.append(Piece(line, "", tuple(tokens)))


_SPACE_SET = set(_SPACE)


def _after_comment(source: str, at: int, line: int) -> tuple[int, bool]:
    end = source.find("*/", at)
    if end < 0:
        raise TemplateError("a comment does not end", line)
    match = re.compile(r"(\s+-)?\}\}").match(source, end + 2)
    if match is None:
        raise TemplateError("a comment ends before its action does", line)
    return match.end(), match[1] is not None


def _action(source: str, at: int) -> tuple[list[Token], int, bool]:
    """Tokens up to `}}`; where the text goes on; whether space is trimmed there."""
    tokens: list[Token] = []
    begun = at
    line = source.count("\n", 0, at) + 1
    while True:
        if source.startswith("}}", at):
            return tokens, at + 2, False
        closing = re.compile(r"[ \t\r\n]+-\}\}").match(source, at)
        if closing is not None:
            return tokens, closing.end(), True
        match = _TOKEN.match(source, at)
        if match is None:
            if at >= len(source):
                raise TemplateError("an action does not end", line)
            here = source.count("\n", 0, at) + 1
            raise TemplateError(f"unexpected {source[at]!r} in an action", here)
        here = line + source.count("\n", begun, at)
        tokens.append(_token(match, here))
        at = match.end()


def _token(match: re.Match[str], line: int) -> Token:
    text = match.group()
    match match.lastgroup:
        case "string":
            return Token("value", text, line, _unescaped(text[1:-1], line))
        case "raw":
            return Token("value", text, line, text[1:-1].replace("\r", ""))
        case "char":
            value = _unescaped(text[1:-1], line)
            if len(value) != 1:
                raise TemplateError(f"{text} is not one character", line)
            return Token("value", text, line, ord(value))
        case "number":
            return Token("value", text, line, _number(text, line))
        case "space" | "field" | "variable" | "word" | "sign" | "dot" as kind:
            return Token(kind, text, line)
    raise AssertionError(match.lastgroup)


def _number(text: str, line: int) -> int | float:
    plain = text.replace("_", "")
    try:
        if re.fullmatch(r"[+-]?0[0-7]+", plain):
            return int(plain, 8)
        return int(plain, 0)
    except ValueError:
        pass
    try:
        return float(plain)
    except ValueError:
        raise TemplateError(f"{text} is no number", line) from None


def _unescaped(text: str, line: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match["one"]:
            return _ESCAPES[match["one"]]
        for name, base in (("x", 16), ("u", 16), ("U", 16), ("o", 8)):
            if match[name] and int(match[name], base) <= 0x10FFFF:
                return chr(int(match[name], base))
        raise TemplateError(f"unknown escape {match.group()}", line)

    return _ESCAPE.sub(one, text)
