"""Values become a checked recipe; what is wrong is told in the reader's language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from slipway.core.errors import UsageError, unknown_key
from slipway.core.i18n import Text, tr
from slipway.datasets.source import DataSource
from slipway.training.spec.keys import TrainSpec

# keys that hold keys of their own
NESTED: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in TrainSpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested ones; the reverse of `flatten`."""
    values: dict[str, Any] = {}
    for key, value in flat.items():
        head, _, tail = key.partition(".")
        if tail:
            values.setdefault(head, {})[tail] = value
        else:
            values[head] = value
    return values


def known_keys() -> list[str]:
    """Every key a recipe may have, dotted."""
    inner = [f"{key}.{name}" for key, model in NESTED.items() for name in model.model_fields]
    return [name for name in TrainSpec.model_fields if name not in NESTED] + inner


def require_known(raw: Mapping[str, Any], where: str) -> None:
    """Refuse keys that a recipe does not have.

    Raises:
        UsageError: naming the key and the nearest known ones.
    """
    for key, value in raw.items():
        if key not in TrainSpec.model_fields:
            raise unknown_key(key, TrainSpec.model_fields, where)
        if key in NESTED and isinstance(value, Mapping):
            for inner in value:
                if inner not in NESTED[key].model_fields:
                    raise unknown_key(f"{key}.{inner}", known_keys(), where)
        if key in ("data", "eval_data") and isinstance(value, list):
            for number, item in enumerate(value, 1):
                _require_source(key, number, item, where)


def _require_source(key: str, number: int, item: object, where: str) -> None:
    if isinstance(item, Mapping):
        for inner in item:
            if inner not in DataSource.model_fields:
                known = [f"{key}.{name}" for name in DataSource.model_fields]
                raise unknown_key(f"{key}.{inner}", known, f"{where} ({key} {number})")


def validate(
    flat: Mapping[str, Any], named: Callable[[str], tuple[str, Text | str]], see: Text
) -> TrainSpec:
    """A recipe from dotted keys and values.

    Args:
        named: our dotted key -> what its author calls it, and where it stands.
        see: what to read about keys.

    Raises:
        UsageError: a key is missing or a value has a wrong type or range.
    """
    try:
        return TrainSpec.model_validate(nested(flat))
    except ValidationError as error:
        faults = error.errors()
        top = faults[0]["loc"][0]  # of a union, the branch that went furthest in says most
        first = max((f for f in faults if f["loc"][0] == top), key=lambda f: len(f["loc"]))
        parts = [str(part) for part in first["loc"]]
        key, where = named(".".join(parts[: 2 if parts[0] in NESTED else 1]))
        code = "recipe.missing_key" if first["type"] == "missing" else "recipe.bad_value"
        raise UsageError(
            code,
            tr(
                "{where}: `{key}`: {reason}",
                where=where,
                key=key,
                reason=_reason(first["type"], first),
            ),
            see,
        ) from error


def _reason(kind: str, error: Mapping[str, Any]) -> Text | str:
    """Pydantic's commonest faults in the reader's language, the others in its own English."""
    limits: Mapping[str, Any] = error.get("ctx") or {}
    if kind == "missing":
        return tr("the key is missing")
    if kind in ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float"):
        whole = kind.startswith("int")
        return tr("must be a whole number") if whole else tr("must be a number")
    if kind in ("bool_parsing", "bool_type"):
        return tr("must be true or false")
    if kind == "literal_error":
        return tr("must be one of {names}", names=limits["expected"].replace(" or ", ", "))
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [f"{sign} {limits[key]}" for key, sign in signs.items() if key in limits]
    return tr("must be {limit}", limit=found[0]) if found else str(error["msg"])
