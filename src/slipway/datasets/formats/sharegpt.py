"""ShareGPT rows: {"conversations": [{"from": "human" | "gpt" | "system", "value"}], "system"}."""

from __future__ import annotations

from typing import Any

from slipway.datasets.formats.fields import Fields, Parsed, tool_turns_later
from slipway.datasets.model import Message, Role

KEYS = frozenset({"conversations", "system", "id", "topic"})
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def parse(row: dict[str, Any]) -> Parsed:
    """Read one row; a `system` key beside the conversation becomes its first turn."""
    fields = Fields()
    if system := fields.text(row, "system", "system"):
        fields.messages.append(("system", Message("system", system)))
    later = tool_turns_later()
    refused = dict.fromkeys(("observation", "function_call", "tool"), later)
    fields.turns(row, "conversations", ("from", "value"), _ROLES, refused)
    return fields.finish(row)
