"""The page of all recipe keys, made from the keys themselves: `docs/recipe.md`.

python -m slipway.training.spec.page docs
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from slipway.core.files import write_text
from slipway.datasets.source import DataSource
from slipway.training.spec.keys import TrainSpec
from slipway.training.spec.validate import NESTED

NAME = "recipe.md"
_HEAD = """\
# Recipe keys 配方的键

Every key that a recipe (YAML or JSON) may have, and that `slipway train RECIPE key=value` may
override. Made from the code; a test checks it. 本页由代码生成，测试保证一致。

An override of a key inside another one is dotted: `lora.rank=8`. Lists are written `[a, b]`;
datasets also as `data='[{path: a, weight: 2}, b]'`. Unknown keys are errors that offer the nearest
names. Every value is printed and stored with its origin: `flag`, `file`, `llamafactory` (that
program's default, for its files) or `default`. LLaMA Factory's files run as they are: see
[llamafactory.md](llamafactory.md).

"""


def recipe_page() -> str:
    """The page's text."""
    tables = [_HEAD, "## At the top\n\n", _table(TrainSpec, "")]
    for key, model in NESTED.items():
        field = TrainSpec.model_fields[key]
        about = (field.description or (model.__doc__ or "")).strip().splitlines()[0]
        tables += [f"\n## `{key}`\n\n{about}\n\n", _table(model, f"{key}.")]
    tables += ["\n## One dataset of `data` or `eval_data`\n\n", _table(DataSource, "")]
    return "".join(tables)


def _table(model: type[BaseModel], prefix: str) -> str:
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if prefix == "" and name in NESTED and model is TrainSpec:
            continue
        values = _values(field).replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {_default(field)} | {values} | {field.description} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "**must be given**"
    if value is None:
        return "–"
    if value == "":
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(rule, key)}"
        for rule in field.metadata
        for key, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if hasattr(rule, key)
    ]
    return ", ".join([_kind(field.annotation), *limits])


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        parts = [_kind(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is list:
        return f"list of {_kind(get_args(annotation)[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true, false"}
    return names.get(annotation, "dataset")


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) / NAME, recipe_page())
