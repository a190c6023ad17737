"""The functions of templates: text/template's own, and those that Ollama adds."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote_plus

from slipway.store.gotemplate.values import Struct, bare, formatted, to_json

MAX_TEXT = 4 << 20  # characters that one call may make


class FunctionError(Exception):
    """A function was given what it cannot take; the text is the reason."""


def _length(value: Any) -> int:
    value = bare(value)
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | Mapping):
        return len(value)
    raise FunctionError(f"len of {_kind(value)}")


def _index(value: Any, *indices: Any) -> Any:
    for index in indices:
        value = bare(value)
        if isinstance(value, Mapping):
            value = value.get(index)
        elif isinstance(value, list | str):
            if not isinstance(index, int) or isinstance(index, bool):
                raise FunctionError(f"cannot index with {_kind(index)}")
            items: Any = value.encode() if isinstance(value, str) else value
            if not 0 <= index < len(items):
                raise FunctionError(f"index {index} is out of range")
            value = items[index]
        else:
            raise FunctionError(f"cannot index {_kind(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    value = bare(value)
    if not isinstance(value, list | str) or len(bounds) > 3:
        raise FunctionError(f"cannot slice {_kind(value)}")
    items: Any = value.encode() if isinstance(value, str) else value
    low, high = [*bounds, *(0, len(items))[len(bounds) :]][:2]
    if not all(isinstance(bound, int) for bound in (low, high)) or not (
        0 <= low <= high <= len(items)
    ):
        raise FunctionError("slice bounds are out of range")
    cut = items[low:high]
    return cut.decode("utf-8", "replace") if isinstance(value, str) else cut


def _family(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "string"
        case None:
            return "nil"
    raise FunctionError(f"cannot compare {_kind(value)}")


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionError("missing argument for comparison")
    first = bare(first)
    for other in map(bare, others):
        families = {_family(first), _family(other)}
        if len(families) == 1 or "nil" in families:
            if first == other and len(families) == 1:
                return True
        else:
            raise FunctionError("incompatible types for comparison")
    return False


def _less(first: Any, second: Any) -> bool:
    one, two = _family(first), _family(second)
    if one != two:
        raise FunctionError("incompatible types for comparison")
    if one in ("bool", "nil"):
        raise FunctionError("invalid type for comparison")
    return bool(first < second)


def _print(*values: Any) -> str:
    """Like fmt.Sprint: a space between two operands of which neither is a string."""
    text = ""
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            text += " "
        text += formatted(value)
    return text


def _println(*values: Any) -> str:
    return " ".join(formatted(value) for value in values) + "\n"


_VERB = re.compile(r"%([+\-# 0]*)(\d*)(?:\.(\d*))?([%a-zA-Z])")


def _printf(form: Any, *values: Any) -> str:
    if not isinstance(form, str):
        raise FunctionError("the first argument of printf must be a string")
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        if int(width or 0) > MAX_TEXT or int(precision or 0) > MAX_TEXT:
            raise FunctionError("a width is too large")
        return _padded(_verb(verb, flags, precision, rest.pop(0)), flags, int(width or 0))

    text = _VERB.sub(one, form)
    if rest:
        extra = ", ".join(f"{_kind(value)}={formatted(value)}" for value in rest)
        text += f"%!(EXTRA {extra})"
    if len(text) > MAX_TEXT:
        raise FunctionError("the text is too long")
    return text


def _padded(text: str, flags: str, width: int) -> str:
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and re.fullmatch(r"[+-]?[\d.]+", text):
        return text.zfill(width)
    return text.rjust(width)


def _verb(verb: str, flags: str, precision: str | None, value: Any) -> str:
    if verb == "v":
        return formatted(value)[: int(precision) if precision and isinstance(value, str) else None]
    if verb == "T":
        return _kind(value)
    text: str | None = None
    match value:
        case None:
            return f"%!{verb}(<nil>)"
        case bool():
            text = formatted(value) if verb == "t" else None
        case int():
            text = _whole(verb, flags, value)
        case float():
            text = _real(verb, flags, precision, value)
        case str():
            text = _string(verb, precision, value)
        case _:
            text = formatted(value) if verb == "s" else None
    return f"%!{verb}({_kind(value)}={formatted(value)})" if text is None else text


def _whole(verb: str, flags: str, value: int) -> str | None:
    if verb in "dxXob":
        return f"{value:{'+' if '+' in flags else ''}{verb}}"
    if verb in "cU" and 0 <= value <= 0x10FFFF:
        return chr(value) if verb == "c" else f"U+{value:04X}"
    return None


def _real(verb: str, flags: str, precision: str | None, value: float) -> str | None:
    if verb not in "fFeEgG":
        return None
    if precision is None and verb in "gG":
        return formatted(value)
    digits = 6 if precision is None else int(precision or 0)
    return f"{value:{'+' if '+' in flags else ''}.{digits}{verb}}"


def _string(verb: str, precision: str | None, value: str) -> str | None:
    match verb:
        case "s":
            return value[: int(precision) if precision else None]
        case "q":
            return json.dumps(value, ensure_ascii=False)
        case "x" | "X":
            text = value.encode().hex()
            return text.upper() if verb == "X" else text
    return None


def _html(*values: Any) -> str:
    return html.escape(_print(*values)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def _js(*values: Any) -> str:
    text = _print(*values).replace("\\", "\\\\")
    for character, escape in (("'", "\\'"), ('"', '\\"')):
        text = text.replace(character, escape)
    for character in "<>&=\n\r\t":
        text = text.replace(character, f"\\u{ord(character):04X}")
    return text


def _call(*_: Any) -> Any:
    raise FunctionError("call has nothing here that it could call")


def _type_script(value: Any) -> str:
    """The TypeScript type of a tool's property, as Ollama's templates for gpt-oss ask for it."""
    names = {"integer": "number", "array": "any[]", "object": "Record<string, any>"}
    fields = bare(value)
    if not isinstance(fields, Mapping):
        return "any"
    choices = fields.get("AnyOf") or fields.get("anyOf")
    if isinstance(bare(choices), list):
        return " | ".join(_type_script(one) for one in bare(choices))
    kinds = bare(fields.get("Type", fields.get("type")))
    kinds = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    found = [names.get(str(kind), str(kind)) for kind in kinds]
    return " | ".join(found) or "any"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nil"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case Struct():
            return "struct"
        case list():
            return "[]interface {}"
    return "map[string]interface {}"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": _length,
    "index": _index,
    "slice": _slice,
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),
    "lt": _less,
    "le": lambda first, second: _less(first, second) or _equal(first, second),
    "gt": lambda first, second: _less(second, first),
    "ge": lambda first, second: _less(second, first) or _equal(first, second),
    "not": lambda value: not _true(value),
    "print": _print,
    "println": _println,
    "printf": _printf,
    "html": _html,
    "js": _js,
    "urlquery": lambda *values: quote_plus(_print(*values)),
    "call": _call,
    "json": to_json,
    "currentDate": lambda *_: date.today().isoformat(),
    "yesterdayDate": lambda *_: (date.today() - timedelta(days=1)).isoformat(),
    "toTypeScriptType": _type_script,
}
SHORT = ("and", "or")
"""Functions that do not look at all their arguments; the evaluator has them."""


def _true(value: Any) -> bool:
    from slipway.store.gotemplate.values import is_true

    return is_true(value)
