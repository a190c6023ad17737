"""Rows with a list of turns.

OpenAI, the format of our own datasets: `{"messages": [{"role", "content"}, ...], "tools"}`.
https://platform.openai.com/docs/guides/supervised-fine-tuning
ShareGPT: `{"conversations": [{"from": "human" | "gpt" | ..., "value"}], "system", "tools"}`.
"""

from __future__ import annotations

from typing import Any

from slipway.datasets.formats.answers import is_pair, read_pair
from slipway.datasets.formats.calls import read_tools
from slipway.datasets.formats.fields import Fields, Parsed
from slipway.datasets.formats.layout import Layout
from slipway.datasets.formats.turns import read_turns
from slipway.datasets.model import Message


def parse(row: dict[str, Any], layout: Layout) -> Parsed:
    """Read one row; a `system` key beside the turns becomes the first.

    Raises:
        FieldProblems: something is wrong.
    """
    fields = Fields(row, layout)
    parsed = fields.parsed
    parsed.whole = layout.messages
    parsed.tools = read_tools(fields)
    turns = read_turns(fields, layout.messages)
    system = fields.text(row, layout.system, layout.system)
    own = turns[0][1].content if turns and turns[0][1].role == "system" else None
    # twice the same is one; two different ones are a fault, but LLaMA Factory takes the turn
    if system and own != system and not (layout.registry and own is not None):
        parsed.messages.append((layout.system, Message("system", system)))
    parsed.messages += turns
    if is_pair(fields):
        read_pair(fields)
    else:
        parsed.desirable = fields.mark()
    return fields.finish()
