"""The one shape every dataset becomes: a sample with a name and a place in a file.

A sample is one of four kinds: a conversation to imitate (`chat`), a prompt with a better and a
worse answer (`preference`), a conversation marked good or bad (`feedback`, KTO), or plain text
(`text`, pre-training).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.i18n import Text

Role = Literal["system", "user", "assistant", "tool"]
Split = Literal["train", "heldout"]
Format = Literal["openai", "alpaca", "sharegpt", "trl", "text"]
SampleKind = Literal["chat", "preference", "feedback", "text"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the assistant calls: its name and its arguments, parsed from JSON."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who speaks and what is said.

    Attributes:
        content: the text as it stands in the row, `<think>...</think>` included.
        tool_calls: an assistant turn's calls, if any.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to learn from or to be tested on.

    Attributes:
        id: the row's own `id`, else `<file stem>:<line>`.
        messages: `chat` and `feedback`: an optional system turn, then user (or tool) and
            assistant in turn, assistant last. `preference`: the prompt alone, user or tool last.
            `text`: empty.
        file: the file it was read from.
        line: the line it starts on, from 1 (the row number in a table such as parquet).
        topic: the row's own `topic`, if any.
        tools: JSON schemas of the functions offered, in OpenAI's shape
            (`{"type": "function", "function": {...}}`).
        chosen, rejected: the answers of a `preference`.
        desirable: the mark of a `feedback`.
        text: the whole of a `text`.
        source: name of the dataset it came from, when several are mixed.
    """

    id: str
    messages: tuple[Message, ...]
    file: Path
    line: int
    topic: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    chosen: Message | None = None
    rejected: Message | None = None
    desirable: bool | None = None
    text: str = ""
    source: str = ""

    @property
    def kind(self) -> SampleKind:
        """What the sample teaches."""
        if self.chosen is not None:
            return "preference"
        if self.desirable is not None:
            return "feedback"
        return "chat" if self.messages else "text"


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it stands in the file; `line` is the row's number in a table."""

    file: Path
    line: int
    value: dict[str, Any]


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
