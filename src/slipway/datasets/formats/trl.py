"""TRL's rows: `prompt` with `chosen` and `rejected`, or with `completion` and perhaps `label`.

Each is a text, or a list of OpenAI turns. Without `prompt`, `chosen` and `rejected` are whole
conversations, and what both begin with is the prompt.
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.answers import is_pair, read_pair
from slipway.datasets.formats.calls import read_tools
from slipway.datasets.formats.fields import At, Fields, Parsed
from slipway.datasets.formats.layout import Layout
from slipway.datasets.formats.turns import read_turns
from slipway.datasets.model import Message


def parse(row: dict[str, Any], layout: Layout) -> Parsed:
    """Read one row.

    Raises:
        FieldProblems: something is wrong.
    """
    fields = Fields(row, layout)
    parsed = fields.parsed
    parsed.whole = layout.prompt if fields.has(layout.prompt) else layout.chosen
    if system := fields.text(row, layout.system, layout.system):
        parsed.messages.append((layout.system, Message("system", system)))
    parsed.tools = read_tools(fields)
    if not fields.has(layout.prompt) and is_pair(fields):
        _common_prompt(fields)
        return fields.finish()
    parsed.messages += _text_or_turns(fields, layout.prompt, "user")
    if is_pair(fields):
        read_pair(fields)
        return fields.finish()
    parsed.messages += _text_or_turns(fields, layout.response, "assistant")
    parsed.desirable = fields.mark()
    return fields.finish()


def _text_or_turns(fields: Fields, key: str, role: Any) -> list[At]:
    value = fields.row.get(key)
    if isinstance(value, list) or (isinstance(value, str) and value.startswith('[{"')):
        return read_turns(fields, key)
    return [(key, Message(role, fields.text(fields.row, key, key, required=True)))]


def _common_prompt(fields: Fields) -> None:
    """Both answers are whole conversations: what they share is the prompt."""
    layout, parsed = fields.layout, fields.parsed
    better = read_turns(fields, layout.chosen)
    worse = read_turns(fields, layout.rejected)
    if fields.problems:
        return
    shared = 0
    while shared < min(len(better), len(worse)) and better[shared][1] == worse[shared][1]:
        shared += 1
    for key, turns in ((layout.chosen, better), (layout.rejected, worse)):
        rest = turns[shared:]
        if len(rest) != 1 or rest[0][1].role != "assistant":
            reason = tr(
                "must end with one answer after the turns that `chosen` and `rejected` share"
            )
            fields.add(key, "role_order", reason)
    if not fields.problems:
        parsed.messages += better[:shared]
        parsed.chosen, parsed.rejected = better[shared], worse[shared]
