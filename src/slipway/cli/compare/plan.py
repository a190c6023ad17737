"""Which variants are compared: every combination of models, system texts and parameter values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from slipway.cli.talk.values import read_option
from slipway.core.errors import InputError, UsageError, from_os_error
from slipway.core.i18n import tr

MOST_VARIANTS = 64
_SHOWN = 32  # characters of a system text in a label


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask.

    Attributes:
        label: what tells it from the others.
        system: system text; empty leaves the model's own.
        options: all parameters, those that are the same everywhere included.
    """

    label: str
    model: str
    system: str
    options: Mapping[str, Any]


def variants(
    models: Sequence[str],
    systems: Sequence[str],
    sweeps: Mapping[str, Sequence[str]],
    fixed: Mapping[str, Any],
) -> list[Variant]:
    """The combinations, those of one model and system text together.

    Args:
        systems: texts, or paths of files that hold one; none is the model's own.
        sweeps: parameter name -> the values to try, as typed.
        fixed: parameters that are the same for all.

    Raises:
        UsageError: a bad parameter, or too many combinations.
        SlipwayError: a file cannot be read.
    """
    texts = [_system(given) for given in systems] or [("", "")]
    axes = [[(name, typed) for typed in values] for name, values in sweeps.items()]
    named = list(dict.fromkeys(models))
    found = []
    for model, (name, text) in product(named, texts):
        for chosen in product(*axes):
            parts = [model] if len(named) > 1 else []
            if len(texts) > 1:
                parts.append(f"system={name or '(own)'}")
            parts += [f"{key}={typed}" for key, typed in chosen if len(sweeps[key]) > 1]
            options = {**fixed, **{key: read_option(key, [typed]) for key, typed in chosen}}
            found.append(Variant(", ".join(parts) or model, model, text, options))
    if len(found) > MOST_VARIANTS:
        raise UsageError(
            "compare.too_many",
            tr("{count} combinations; at most {limit}", count=len(found), limit=MOST_VARIANTS),
            tr("compare fewer models, texts or values at once"),
        )
    return found


def _system(given: str) -> tuple[str, str]:
    """Name and text of a system prompt that was given as a text or as a file's path."""
    path = Path(given).expanduser()
    try:
        is_file = bool(given) and "\n" not in given and path.is_file()
    except OSError:  # too long for a path
        is_file = False
    if is_file:
        return path.name, read_text(path).strip()
    short = " ".join(given.split())
    return (short if len(short) <= _SHOWN else short[: _SHOWN - 1] + "…"), given


def read_sweeps(given: Iterable[str]) -> dict[str, list[str]]:
    """Values by parameter, from `name=value,value`.

    Raises:
        UsageError: not of that form, or a parameter twice.
    """
    sweeps: dict[str, list[str]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        parts = list(dict.fromkeys(part.strip() for part in values.split(",") if part.strip()))
        if not equals or not parts or name in sweeps:
            raise UsageError(
                "compare.bad_sweep",
                tr("`{value}` is not `name=value,value`, or names a parameter again", value=text),
                tr("for example `--sweep top_k=1,40`"),
            )
        sweeps[name] = parts
    return sweeps


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: each line of a text; of JSON lines the field `prompt` (or a string).

    Raises:
        InputError: a line is no prompt, or there is none; the message names the line.
    """
    import json

    lines = [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line]
    prompts = [line for _, line in lines]
    if path.suffix in (".jsonl", ".ndjson"):
        prompts = []
        for number, line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            text = value.get("prompt") if isinstance(value, dict) else value
            if not isinstance(text, str) or not text:
                raise InputError(
                    "compare.bad_prompt",
                    tr("{path}:{line} holds no text `prompt`", path=str(path), line=number),
                    tr("write lines like {example}", example='{"prompt": "hello"}'),
                )
            prompts.append(text)
    if not prompts:
        raise InputError("compare.no_prompt", tr("{path} holds no prompt", path=str(path)))
    return prompts


def read_text(path: Path) -> str:
    """A file's text.

    Raises:
        SlipwayError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "file.not_text",
            tr("{path} is not UTF-8 text ({reason})", path=str(path), reason=error.reason),
            tr("convert it first, for example with `iconv -f GB18030 -t UTF-8`"),
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error
