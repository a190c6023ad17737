"""Typed access to a row's fields that collects what is wrong instead of stopping at the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipway.core.i18n import Text, tr
from slipway.datasets.model import Message, Role


@dataclass(frozen=True, slots=True)
class Parsed:
    """A row in our terms; `id` is empty when the row has none.

    Attributes:
        messages: each turn with the field it came from, for errors.
    """

    messages: list[tuple[str, Message]]
    id: str = ""
    topic: str = ""


class FieldProblems(Exception):
    """Everything wrong with a row's fields: (field, code, reason) in order."""

    def __init__(self, problems: list[tuple[str, str, Text]]) -> None:
        self.problems = problems
        super().__init__(problems)


class Fields:
    """Reads fields and remembers problems; call `finish` last."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str, Text]] = []
        self.messages: list[tuple[str, Message]] = []

    def add(self, field: str, code: str, reason: Text) -> None:
        """Remember a problem."""
        self.problems.append((field, code, reason))

    def text(self, row: dict[str, Any], key: str, at: str, *, required: bool = False) -> str:
        """A string field; empty text when it is absent or null and not required."""
        value = row.get(key)
        if value is None:
            if required:
                self.add(at, "missing_field", tr("the field is missing"))
            return ""
        if not isinstance(value, str):
            self.add(at, "wrong_type", _kind(value, "str"))
            return ""
        return value

    def label(self, row: dict[str, Any], key: str) -> str:
        """An optional id or topic: text, or a number written as text."""
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(row, key, key).strip()

    def items(self, row: dict[str, Any], key: str) -> list[Any]:
        """A required list field."""
        value = row.get(key)
        if value is None:
            self.add(key, "missing_field", tr("the field is missing"))
            return []
        if not isinstance(value, list):
            self.add(key, "wrong_type", _kind(value, "list"))
            return []
        return value

    def turns(
        self,
        row: dict[str, Any],
        key: str,
        names: tuple[str, str],
        roles: dict[str, Role],
        refused: dict[str, Text],
    ) -> None:
        """Read a list of `{role, content}` objects into `messages`.

        Args:
            names: the keys for role and content.
            roles: the file's role names and ours.
            refused: role names that are known but not supported, with the reason.
        """
        role_key, content_key = names
        for index, turn in enumerate(self.items(row, key)):
            at = f"{key}[{index}]"
            if not isinstance(turn, dict):
                self.add(at, "wrong_type", _kind(turn, "object"))
                continue
            name = self.text(turn, role_key, f"{at}.{role_key}", required=True)
            if turn.get("tool_calls") or turn.get("function_call"):
                self.add(at, "unsupported", tr("tool calls are not supported yet"))
                continue
            content = self.text(turn, content_key, f"{at}.{content_key}", required=True)
            if name in refused:
                self.add(f"{at}.{role_key}", "unsupported", refused[name])
            elif name in roles:
                self.messages.append((f"{at}.{content_key}", Message(roles[name], content)))
            elif isinstance(turn.get(role_key), str):
                known = ", ".join(roles)
                reason = tr("unknown role `{role}`; known: {known}", role=name, known=known)
                self.add(f"{at}.{role_key}", "unknown_role", reason)

    def finish(self, row: dict[str, Any]) -> Parsed:
        """The parsed row.

        Raises:
            FieldProblems: something was wrong.
        """
        row_id, topic = self.label(row, "id"), self.label(row, "topic")
        if self.problems:
            raise FieldProblems(self.problems)
        return Parsed(self.messages, row_id, topic)


def _kind(value: Any, wanted: str) -> Text:
    return tr("must be {wanted}, not {kind}", wanted=wanted, kind=type(value).__name__)


def tool_turns_later() -> Text:
    """The reason given for tool turns."""
    return tr("tool turns are not supported yet")
