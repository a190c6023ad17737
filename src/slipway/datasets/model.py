"""The one shape every dataset becomes: a conversation with a name and a place in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.core.i18n import Text

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "heldout"]
Format = Literal["openai", "alpaca", "sharegpt"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks and what is said."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to learn from or to be tested on.

    Attributes:
        id: the row's own `id`, else `<file stem>:<line>`.
        messages: an optional system turn, then user and assistant in turn, assistant last.
        file: the file it was read from.
        line: the line it starts on, from 1.
        topic: the row's own `topic`, if any.
    """

    id: str
    messages: tuple[Message, ...]
    file: Path
    line: int
    topic: str = ""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one row.

    Attributes:
        line: from 1; 0 when the whole file is meant.
        field: path in the row, such as `messages[2].content`; empty when the row itself is meant.
        code: stable, English, such as `missing_field`.
        reason: what is wrong, for people.
    """

    file: Path
    line: int
    field: str
    code: str
    reason: Text

    @property
    def place(self) -> str:
        """`file:line` or `file`."""
        return f"{self.file}:{self.line}" if self.line else str(self.file)

    def as_json(self) -> dict[str, object]:
        """The problem in English, for `--json`."""
        return {
            "file": str(self.file),
            "line": self.line,
            "field": self.field,
            "code": self.code,
            "reason": self.reason.en,
        }
