"""A little of the text around a hit, fit for a log."""

from __future__ import annotations

import re

from slipway.gateway.filter.personal import mask_personal

AROUND = 16
"""Characters on either side."""

_LOOKED_AT = 8 * AROUND
# what may be a piece of a number, an address or a key whose other piece is not there
_CUT_LEFT = re.compile(r"\A[!-~０-９]*[\d\s().\-]*")
_CUT_RIGHT = re.compile(r"[!-~０-９]*[\d@.][!-~０-９]*\Z|[\d\s().\-+]+\Z")


def excerpt(text: str, start: int, end: int, *, cut: bool = False) -> str:
    """`text[start:end]` masked but for its first character, with what stands around it.

    Personal data around it is masked too: it is looked for in more text than is shown, and a piece
    of what may be a number at an end where text is missing is left out.

    Args:
        cut: whether `text` is itself a piece of a longer one.
    """
    left = text[max(0, start - _LOOKED_AT) : start]
    right = text[end : end + _LOOKED_AT]
    cut_left = cut or start > _LOOKED_AT
    cut_right = cut or len(text) - end > _LOOKED_AT
    left, right = mask_personal(left), mask_personal(right)
    if cut_left:
        left = _CUT_LEFT.sub("", left, count=1)
    if cut_right:
        right = _CUT_RIGHT.sub("", right)
    shown = text[start : start + 1] + "*" * max(1, end - start - 1)
    before = ("…" if cut_left or len(left) > AROUND else "") + left[-AROUND:]
    after = right[:AROUND] + ("…" if len(right) > AROUND else "")
    return " ".join(f"{before}{shown}{after}".split())
