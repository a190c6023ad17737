"""OpenAI chat rows, the format of our own datasets: `{"messages": [{"role", "content"}, ...]}`.

https://platform.openai.com/docs/guides/supervised-fine-tuning
"""

from __future__ import annotations

from typing import Any

from slipway.datasets.formats.fields import Fields, Parsed, tool_turns_later
from slipway.datasets.model import Role

KEYS = frozenset({"messages", "id", "topic"})
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


def parse(row: dict[str, Any]) -> Parsed:
    """Read one row; `id` and `topic` are optional."""
    fields = Fields()
    later = tool_turns_later()
    refused = dict.fromkeys(("tool", "function"), later)
    fields.turns(row, "messages", ("role", "content"), _ROLES, refused)
    return fields.finish(row)
