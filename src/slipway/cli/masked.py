"""Text with what is learned marked: in ⟦ ⟧ everywhere, and green where colours are welcome."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.datasets.preview import Piece


def coloured() -> bool:
    """A terminal, and nobody set NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def green(text: str) -> str:
    """The text in green, if colours are welcome."""
    return f"\x1b[32m{text}\x1b[0m" if coloured() else text


def masked(pieces: Iterable[Piece]) -> str:
    """The pieces of a document as one text."""
    return "".join(green(f"⟦{piece.text}⟧") if piece.learned else piece.text for piece in pieces)
