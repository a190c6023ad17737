"""The values of a LLaMA Factory file, its defaults filled in, read with the key's name in mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.i18n import Text, tr
from slipway.training.llamafactory.table import KEYS
from slipway.training.spec.source_text import SourceText

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Values:
    """What a file and the command line say, key by key; LLaMA Factory's default where silent."""

    def __init__(self, given: Mapping[str, Any], where: SourceText) -> None:
        self.given, self.where = given, where

    def has(self, key: str) -> bool:
        """Whether the file or the command line gives the key a value."""
        return self.given.get(key) is not None

    def get(self, key: str) -> Any:
        """The value as it is."""
        value = self.given.get(key)
        return KEYS[key].default if value is None and key not in self.given else value

    def asks(self, key: str) -> bool:
        """Whether the key is given a value that is neither nothing nor the default."""
        return key in self.given and KEYS[key].asks(self.given[key])

    def text(self, key: str) -> str:
        """A text; empty when there is none."""
        value = self.get(key)
        if isinstance(value, list | dict):
            raise self.wrong(key, tr("must be one text"))
        return "" if value is None else str(value).strip()

    def flag(self, key: str) -> bool:
        """True or false.

        Raises:
            UsageError: it is neither.
        """
        value = self.get(key)
        word = str(value).strip().lower()
        if value is None or word in _FALSE:
            return False
        if word in _TRUE:
            return True
        raise self.wrong(key, tr("must be true or false"))

    def number(self, key: str) -> float:
        """A number; `none` where the default is none is not asked for here.

        Raises:
            UsageError: it is none.
        """
        value = self.get(key)
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError) as error:
            raise self.wrong(key, tr("must be a number")) from error

    def whole(self, key: str) -> int:
        """A whole number.

        Raises:
            UsageError: it is none.
        """
        value = self.number(key)
        if value != int(value):
            raise self.wrong(key, tr("must be a whole number"))
        return int(value)

    def names(self, key: str) -> list[str]:
        """A list that may also be written as one text with commas."""
        value = self.get(key)
        parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
        return [str(part).strip() for part in parts if str(part).strip()]

    def wrong(self, key: str, reason: Text | str) -> UsageError:
        """An error about the value of a key, with file and line."""
        return UsageError(
            "recipe.bad_value",
            tr("{where}: `{key}`: {reason}", where=self.where.place(key), key=key, reason=reason),
            tr("see `docs/llamafactory.md` for every key"),
        )

    def conflict(self, keys: Sequence[str], reason: Text) -> UsageError:
        """An error about keys that do not go together."""
        return UsageError(
            "llamafactory.conflict",
            tr(
                "{where}: {keys}: {reason}",
                where=self.where.place(keys[0]),
                keys=", ".join(f"`{key}`" for key in keys),
                reason=reason,
            ),
            tr("LLaMA Factory refuses this too; change one of them"),
        )
