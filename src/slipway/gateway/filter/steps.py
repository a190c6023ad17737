"""What a stream did with a piece it does again with the same piece in the same place.

Pieces of answers are tokens of a vocabulary, so the same ones come again and again. Where a stream
stands is a `Place`; a piece leads from there to another place and forwards some text. Both are
kept, as an automaton over tokens that is built as it is needed, for all streams of a matcher. Only
pieces without a match and without characters that melt, grow or vanish are kept; the others are
rare.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_PIECE = 24
"""Characters of a piece that is remembered."""

MAX_STEPS = 60_000
"""Steps kept; then all are forgotten and learned again (about 30 MB at most)."""


@dataclass(slots=True, eq=False)
class Place:
    """Where a stream stands: the text that still matters, and how far it is forwarded.

    Attributes:
        text: as written, no character of which became several or none.
        normal: its normal form, of the same length.
        before: the normal character before it, where bounds of words matter.
        sent: characters of `text` that are forwarded.
        steps: piece -> the place it leads to and what it forwards.
    """

    text: str
    normal: str
    before: str
    sent: int
    steps: dict[str, tuple[Place, str]] = field(default_factory=dict)


class Steps:
    """The places and steps of one matcher.

    Args:
        gaps: whether gaps may be passed over.
        bounded: whether any word is bounded, so that the character before counts.
    """

    def __init__(self, gaps: bool, bounded: bool) -> None:
        self.gaps = gaps
        self._bounded = bounded
        self._places: dict[tuple[str, str, int], Place] = {}
        self._count = 0
        self.start = Place("", "", "", 0)

    def place(self, text: str, normal: str, before: str, sent: int) -> Place:
        """The place with this text; the same object for the same values."""
        if not self._bounded:
            before = ""
        if not text and not before:
            return self.start
        key = (text, before, sent)
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = Place(text, normal, before, sent)
        return found

    def keep(self, place: Place, piece: str, to: Place, out: str) -> tuple[Place, str]:
        """Remembers a step and returns it."""
        step = (to, piece if out == piece else out)
        if len(piece) <= MAX_PIECE:
            self._count += 1
            if self._count > MAX_STEPS:
                self._count = 0
                self._places = {}
                self.start.steps.clear()
            place.steps[piece] = step
        return step
