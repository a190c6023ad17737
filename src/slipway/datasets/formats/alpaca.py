"""Alpaca rows: instruction, input, output, system, history ([[question, answer], ...]).

The question is the instruction and, when there is one, the input on the next line. Answers in
`history` are learned like the last one, as LLaMA Factory does.
"""

from __future__ import annotations

from typing import Any

from slipway.core.i18n import tr
from slipway.datasets.formats.fields import Fields, Parsed
from slipway.datasets.model import Message

KEYS = frozenset({"instruction", "input", "output", "system", "history", "id", "topic"})


def parse(row: dict[str, Any]) -> Parsed:
    """Read one row."""
    fields = Fields()
    if system := fields.text(row, "system", "system"):
        fields.messages.append(("system", Message("system", system)))
    if row.get("history") is not None:
        for index, pair in enumerate(fields.items(row, "history")):
            at = f"history[{index}]"
            if not (
                isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
            ):
                fields.add(at, "wrong_type", tr("must be a pair [question, answer] of texts"))
                continue
            fields.messages.append((f"{at}[0]", Message("user", pair[0])))
            fields.messages.append((f"{at}[1]", Message("assistant", pair[1])))
    instruction = fields.text(row, "instruction", "instruction", required=True)
    extra = fields.text(row, "input", "input")
    question = f"{instruction}\n{extra}" if instruction and extra else instruction or extra
    fields.messages.append(("instruction", Message("user", question)))
    answer = fields.text(row, "output", "output", required=True)
    fields.messages.append(("output", Message("assistant", answer)))
    return fields.finish(row)
