"""A recipe's file as read: its keys, and in which line each of them stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from slipway.core.errors import InputError, NotFoundError, UsageError, from_os_error
from slipway.core.i18n import Text, tr


@dataclass(frozen=True, slots=True)
class SourceText:
    """Where the values of a recipe stand.

    Attributes:
        lines: dotted key -> line in the file.
        flags: keys given on the command line.
    """

    path: Path
    lines: Mapping[str, int] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()

    def place(self, key: str) -> Text | str:
        """`file:line` of a key, or the command line."""
        if key in self.flags:
            return tr("the command line")
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def read_source(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The keys and values of a YAML or JSON file, and the lines of the (dotted) keys.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is not YAML or JSON, or holds no mapping.
        UsageError: a key stands twice.
    """
    if not path.is_file():
        raise NotFoundError(
            "recipe.not_found",
            tr("the recipe {path} does not exist", path=str(path)),
            tr("see the examples in `examples/recipes/`"),
        )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            raw, lines = _json(text, path), {}
        else:
            raw = yaml.load(text, Loader=_Loader)
            lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _not_yaml(path, error) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if raw is None:
        return {}, lines
    if not isinstance(raw, dict):
        raise InputError(
            "recipe.not_a_mapping",
            tr("{path} must hold `key: value` lines", path=str(path)),
            tr("see the examples in `examples/recipes/`"),
        )
    return {str(key): value for key, value in raw.items()}, lines


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, which YAML 1.1 takes for a text."""


_Loader.yaml_implicit_resolvers = {
    key: list(found) for key, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"),
    list("-+0123456789"),
)


def parse_value(text: str) -> Any:
    """The value of a `key=value` override: YAML where it is such, else the text itself."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def _json(text: str, path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UsageError(
                    "recipe.key_twice",
                    tr("{path}: `{key}` stands there twice", path=str(path), key=key),
                    tr("remove one of the two lines"),
                )
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise InputError(
            "recipe.not_json",
            tr("{place}: this is not JSON: {reason}", place=place, reason=error.msg),
            tr("mend that line, or write the file as YAML"),
        ) from error


def _not_yaml(path: Path, error: yaml.YAMLError | UnicodeDecodeError) -> InputError:
    """One sentence with file, line and column; PyYAML's own text has several lines."""
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return InputError(
        "recipe.not_yaml",
        tr("{place}: this is not YAML: {reason}", place=place, reason=reason),
        tr("mend that line; it has the form `key: value`"),
    )


def _lines(node: yaml.Node | None, path: Path, prefix: str = "") -> dict[str, int]:
    """Dotted key -> line.

    Raises:
        UsageError: a key stands twice; YAML would let the later one win in silence.
    """
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in lines:
                raise UsageError(
                    "recipe.key_twice",
                    tr(
                        "{path}:{line}: `{key}` stands in line {first} already",
                        path=str(path),
                        line=line,
                        key=name,
                        first=lines[name],
                    ),
                    tr("remove one of the two lines"),
                )
            lines[name] = line
            lines.update(_lines(value, path, f"{name}."))
    return lines
