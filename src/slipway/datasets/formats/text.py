"""Plain text rows: `{"text": "..."}`; also every line of a .txt file."""

from __future__ import annotations

from typing import Any

from slipway.datasets.formats.fields import Fields, Parsed
from slipway.datasets.formats.layout import Layout


def parse(row: dict[str, Any], layout: Layout) -> Parsed:
    """Read one row.

    Raises:
        FieldProblems: something is wrong.
    """
    fields = Fields(row, layout)
    fields.parsed.whole = layout.text
    fields.parsed.text = fields.text(row, layout.text, layout.text, required=True)
    return fields.finish()
