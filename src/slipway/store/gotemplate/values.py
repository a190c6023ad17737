"""Values as Go has them: what is true, how they print, how they are written as JSON.

Python's dict stands for a map of Go, `Struct` for a struct (a field that is not there is an error),
list for a slice. `Json` are the maps and structs of Ollama's API that print as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

NO_VALUE = "<no value>"
_EXPONENT = 6  # powers of ten from which on a float is written with an exponent


class Struct(dict[str, Any]):
    """Fields by their names in templates, in order."""


class Json:
    """A value that prints as JSON and whose fields can be read.

    Args:
        plain: what is written as JSON.
        fields: what templates see; `plain` when they see the same.
    """

    __slots__ = ("fields", "plain")

    def __init__(self, plain: Any, fields: Any = None) -> None:
        self.plain = plain
        self.fields = plain if fields is None else fields


def bare(value: Any) -> Any:
    """What is inside of a `Json`; other values as they are."""
    return value.fields if isinstance(value, Json) else value


def is_true(value: Any) -> bool:
    """text/template's truth: not zero, not empty, not nil; a struct is always true."""
    value = bare(value)
    if isinstance(value, Struct):
        return True
    if isinstance(value, list | Mapping | str):
        return len(value) > 0
    return bool(value)


def printed(value: Any) -> str:
    """As `{{ value }}` prints it."""
    return NO_VALUE if value is None else formatted(value)


def formatted(value: Any) -> str:
    """As fmt's `%v` prints it."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return _float(value)
        case Json():
            return to_json(value)
        case Struct():
            return "{" + " ".join(formatted(one) for one in value.values()) + "}"
        case Mapping():
            pairs = (f"{formatted(k)}:{formatted(value[k])}" for k in sorted(value, key=_order))
            return f"map[{' '.join(pairs)}]"
        case list() | tuple():
            return "[" + " ".join(formatted(one) for one in value) + "]"
    return str(value)


def to_json(value: Any) -> str:
    """As encoding/json writes it: no spaces, and <, >, & escaped."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Json):
        return _plain_floats(value.plain)
    if isinstance(value, Struct):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=_order)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _plain_floats(value)


def _plain_floats(value: Any) -> Any:
    """encoding/json writes 1.0 as 1."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _plain_floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain_floats(one) for one in value]
    return value


def sorted_items(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The pairs of a map in the order in which `range` has them."""
    return [(key, value[key]) for key in sorted(value, key=_order)]


def _order(key: Any) -> tuple[str, Any]:
    return (type(key).__name__, key)


def _float(value: float) -> str:
    """As Go's %v: the shortest digits, an exponent below 1e-4 and from 1e6 on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    digits, _, exponent = f"{value:.17e}".partition("e")
    for precision in range(17):  # the fewest digits that mean the same number
        text = f"{value:.{precision}e}"
        if float(text) == value:
            digits, _, exponent = text.partition("e")
            break
    power = int(exponent)
    if value and not -4 <= power < _EXPONENT:
        return f"{digits}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return f"{value:.{max(0, len(digits.partition('.')[2]) - power)}f}"
