"""Typed access to a row's fields that collects what is wrong instead of stopping at the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slipway.core.i18n import Text, tr
from slipway.datasets.formats.layout import Layout
from slipway.datasets.json_rows import DuplicateKey, careful
from slipway.datasets.model import Message

At = tuple[str, Message]
"""A turn with the field it came from, for errors."""


@dataclass(slots=True)
class Parsed:
    """A row in our terms; `id` is empty when the row has none.

    Attributes:
        whole: the field that holds the conversation, for errors about all of it.
    """

    messages: list[At] = field(default_factory=list)
    id: str = ""
    topic: str = ""
    whole: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    chosen: At | None = None
    rejected: At | None = None
    desirable: bool | None = None
    text: str = ""


class FieldProblems(Exception):
    """Everything wrong with a row's fields: (field, code, reason) in order."""

    def __init__(self, problems: list[tuple[str, str, Text]]) -> None:
        self.problems = problems
        super().__init__(problems)


class Fields:
    """Reads fields and remembers problems; call `finish` last."""

    def __init__(self, row: dict[str, Any], layout: Layout) -> None:
        self.row = row
        self.layout = layout
        self.problems: list[tuple[str, str, Text]] = []
        self.parsed = Parsed()

    def add(self, field: str, code: str, reason: Text) -> None:
        """Remember a problem."""
        self.problems.append((field, code, reason))

    def has(self, key: str) -> bool:
        """Whether the row has the column, and not as null."""
        return bool(key) and self.row.get(key) is not None

    def text(self, row: dict[str, Any], key: str, at: str, *, required: bool = False) -> str:
        """A string field; empty text when it is absent or null and not required."""
        value = row.get(key) if key else None
        if value is None:
            if required:
                self.add(at, "missing_field", tr("the field is missing"))
            return ""
        if not isinstance(value, str):
            self.add(at, "wrong_type", kind_of(value, "str"))
            return ""
        return value

    def label(self, key: str) -> str:
        """An optional id or topic: text, or a number written as text."""
        value = self.row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(self.row, key, key).strip()

    def items(self, row: dict[str, Any], key: str, at: str) -> list[Any]:
        """A required list field, which may be written as JSON text (in tables it has to be)."""
        value = row.get(key)
        if value is None:
            self.add(at, "missing_field", tr("the field is missing"))
            return []
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = self.json(value, at)
            if value is None:
                return []
        if not isinstance(value, list):
            self.add(at, "wrong_type", kind_of(value, "list"))
            return []
        return value

    def json(self, text: str, at: str) -> Any:
        """JSON written as text; None, remembered, when it is broken."""
        try:
            return careful(text)
        except DuplicateKey as error:
            reason = tr("the key `{key}` stands twice in one object", key=str(error))
            self.add(at, "duplicate_key", reason)
        except (ValueError, RecursionError) as error:
            self.add(at, "broken_json", tr("the text is not JSON: {reason}", reason=str(error)))
        return None

    def mark(self) -> bool | None:
        """The mark of a feedback, from the first of the layout's columns that is there.

        `label` is also what sets for classification call their class, so there only true and
        false count.
        """
        for key in self.layout.mark:
            value = self.row.get(key)
            if isinstance(value, str) and value.lower() in ("true", "false"):
                value = value.lower() == "true"  # a cell of a CSV file
            if isinstance(value, bool):
                return value
            if value is not None and (key != "label" or self.layout.registry):
                self.add(key, "wrong_type", kind_of(value, "bool"))
                return None
        return None

    def refuse_media(self) -> None:
        """Pictures, videos and sounds are not learned from; a row that has some is a problem."""
        for key in self.layout.media:
            if self.row.get(key):
                reason = tr("pictures, videos and sounds are not supported")
                self.add(key, "unsupported", reason)

    def finish(self) -> Parsed:
        """The parsed row.

        Raises:
            FieldProblems: something was wrong.
        """
        # LLaMA Factory reads no ids, so there they may be of any kind and stand twice
        if not self.layout.registry and ("id" in self.row or "topic" in self.row):
            self.parsed.id, self.parsed.topic = self.label("id"), self.label("topic")
        self.refuse_media()
        if self.problems:
            raise FieldProblems(self.problems)
        return self.parsed


def kind_of(value: Any, wanted: str) -> Text:
    """The reason given for a value of the wrong type."""
    return tr("must be {wanted}, not {kind}", wanted=wanted, kind=type(value).__name__)
