"""What is wrong with a model folder, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from slipway.core.i18n import Text


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a folder.

    Attributes:
        code: stable identifier.
        fatal: the converter would fail on it, or make another model of it.
    """

    code: str
    message: Text
    hint: Text
    fatal: bool
