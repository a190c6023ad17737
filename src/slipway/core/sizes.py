"""Sizes as people write them: `4.5GiB`, `24G`, `512 MB`."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]+(?:[.][0-9]+)?|[.][0-9]+) *([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size; `K M G T` are powers of 1000, `Ki Mi Gi Ti` of 1024.

    Raises:
        ValueError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError(text)
    step = 1024 if match[3] else 1000
    return int(float(match[1]) * step ** " kmgt".index(match[2].lower() or " "))
