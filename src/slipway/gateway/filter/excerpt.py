"""A little of the text around a hit, fit for a log."""

from __future__ import annotations

from slipway.gateway.filter.personal import mask_personal

AROUND = 16
"""Characters on either side."""


def excerpt(text: str, start: int, end: int) -> str:
    """`text[start:end]` masked but for its first character, with what stands around it.

    Personal data around it is masked too: it is looked for in more text than is shown, so that a
    number is not shown because half of it was cut away.
    """
    left = mask_personal(text[max(0, start - 8 * AROUND) : start])
    right = mask_personal(text[end : end + 8 * AROUND])
    shown = text[start : start + 1] + "*" * max(1, end - start - 1)
    before = ("…" if len(left) > AROUND else "") + left[-AROUND:]
    after = right[:AROUND] + ("…" if len(right) > AROUND else "")
    return " ".join(f"{before}{shown}{after}".split())
