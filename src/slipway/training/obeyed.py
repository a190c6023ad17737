"""Keys that a recipe may have and that training does not obey yet: refused, never ignored.

Whoever teaches training a key takes its line out of `NOT_YET`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.core.manifest import flatten
from slipway.training.spec import TrainSpec

# dotted key -> whether a value asks for nothing that is missing
NOT_YET: dict[str, Callable[[Any], bool]] = {
    "optimizer": lambda value: value != "apollo",
    "compile": lambda value: value != "on",
    "dtype": lambda value: value != "fp16",
}


def require_obeyed(spec: TrainSpec) -> None:
    """Refuse a recipe that asks for something training does not do yet.

    Raises:
        UsageError: naming the key and its value.
    """
    values = flatten(spec.model_dump())
    for key, asks_nothing in NOT_YET.items():
        if not asks_nothing(values[key]):
            raise UsageError(
                "train.not_yet",
                tr(
                    "`{key}: {value}` is a valid wish that training does not grant yet",
                    key=key,
                    value=values[key],
                ),
                tr("take it out of the recipe; see CHANGELOG.md for what each version can do"),
            )
