"""What a user types for `--option`, `--format` and `--think`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, UsageError, from_os_error, unknown_key
from slipway.core.i18n import tr

LEVELS = ("true", "false", "low", "medium", "high", "max")

Format = str | dict[str, Any]


def read_option(name: str, values: Sequence[str]) -> Any:
    """The value of a model parameter.

    Raises:
        UsageError: no such parameter, or not a value of its kind.
    """
    from slipway.store.parameters import PARAMETERS, parse_value

    parameter = PARAMETERS.get(name)
    if parameter is None:
        raise unknown_key(name, PARAMETERS, tr("the options"))
    if parameter.kind == "strings":
        return list(values)
    try:
        if len(values) != 1:
            raise ValueError(values)
        return parse_value(parameter.kind, values[0])
    except ValueError:
        raise UsageError(
            "run.bad_option",
            tr(
                "`{name}` takes one {kind}, not `{value}`",
                name=name,
                kind=parameter.kind,
                value=" ".join(values),
            ),
            tr("for example `temperature=0.2`, `num_ctx=8192`, `stop=END`"),
        ) from None


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Options from `name=value`; `stop` may come several times.

    Raises:
        UsageError: see `read_option`, or there is no `=`.
    """
    given: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(
                "run.bad_option",
                tr("`{value}` is not `name=value`", value=pair),
                tr("for example `temperature=0.2`, `num_ctx=8192`, `stop=END`"),
            )
        name = name.strip()
        given[name] = [*given[name], value] if name == "stop" and name in given else [value]
    return {name: read_option(name, values) for name, values in given.items()}


def read_format(text: str) -> Format:
    """`json`, a JSON schema, or a file that holds one.

    Raises:
        UsageError: none of them.
        InputError: the file is no JSON object.
    """
    if text.strip().lower() == "json":
        return "json"
    if text.lstrip().startswith("{"):
        source, where = text, "--format"
    else:
        path = Path(text).expanduser()
        try:
            source, where = path.read_text("utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise _no_schema(str(path), str(error)) from error
        except OSError as error:
            raise from_os_error(error, path) from error
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise _no_schema(where, str(error)) from error
    if not isinstance(schema, dict):
        raise _no_schema(where, "not an object")
    return schema


def _no_schema(where: str, reason: str) -> InputError:
    return InputError(
        "run.bad_format",
        tr("{where} holds no JSON schema ({reason})", where=where, reason=reason),
        tr(
            "give `json`, a schema such as {example}, or a file with one",
            example='{"type": "object"}',
        ),
    )


def read_think(text: str) -> bool | str:
    """Whether, or how hard, to think.

    Raises:
        UsageError: not one of `LEVELS`.
    """
    level = text.strip().lower()
    if level not in LEVELS:
        raise UsageError(
            "run.bad_think",
            tr("`{value}` is no level of thinking", value=text),
            tr("choose one of {names}", names=", ".join(LEVELS)),
        )
    return {"true": True, "false": False}.get(level, level)
