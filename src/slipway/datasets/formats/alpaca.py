"""Alpaca rows: instruction, input, output, system, history ([[question, answer], ...]).

The question is the instruction and, when there is one, the input on the next line. Answers in
`history` are learned like the last one, as LLaMA Factory does. With `chosen` and `rejected` a row
is a pair, with `kto_tag` (or a true or false `label`) its output is marked good or bad.
"""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.answers import is_pair, read_pair
from slipway.datasets.formats.calls import read_tools
from slipway.datasets.formats.fields import Fields, Parsed
from slipway.datasets.formats.layout import Layout
from slipway.datasets.model import Message


def parse(row: dict[str, Any], layout: Layout) -> Parsed:
    """Read one row.

    Raises:
        FieldProblems: something is wrong.
    """
    fields = Fields(row, layout)
    parsed = fields.parsed
    # a registry's prompt column may be left empty when the query is not, or the other way round
    needed = not layout.registry or not fields.has(layout.query)
    instruction = fields.text(row, layout.prompt, layout.prompt or "prompt", required=needed)
    extra = fields.text(row, layout.query, layout.query)
    question = f"{instruction}\n{extra}" if instruction and extra else instruction or extra
    if layout.pt and not layout.response and not is_pair(fields):
        parsed.text = question
        parsed.whole = layout.prompt
        return fields.finish()
    if system := fields.text(row, layout.system, layout.system):
        parsed.messages.append((layout.system, Message("system", system)))
    parsed.tools = read_tools(fields)
    _history(fields)
    parsed.messages.append((layout.prompt, Message("user", question)))
    if is_pair(fields):
        read_pair(fields)
        return fields.finish()
    at = layout.response or "output"
    answer = fields.text(row, layout.response, at, required=True)
    parsed.messages.append((at, Message("assistant", answer)))
    parsed.desirable = fields.mark()
    return fields.finish()


def _history(fields: Fields) -> None:
    key = fields.layout.history
    if not fields.has(key):
        return
    for index, pair in enumerate(fields.items(fields.row, key, key)):
        at = f"{key}[{index}]"
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        ):
            fields.add(at, "wrong_type", tr("must be a pair [question, answer] of texts"))
            continue
        fields.parsed.messages.append((f"{at}[0]", Message("user", pair[0])))
        fields.parsed.messages.append((f"{at}[1]", Message("assistant", pair[1])))
