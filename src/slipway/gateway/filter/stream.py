"""Words found in a text that arrives in pieces, none of a blocked one let through.

Held back is only what may still become a match: the longest end of the text that begins a blocking
word, and a letter that a mark could turn into one of a word's letters. Everything else is forwarded
at once.
"""

from __future__ import annotations

import unicodedata
from collections import deque

from slipway.gateway.filter.characters import is_word_char, may_change, sort_of
from slipway.gateway.filter.excerpt import excerpt
from slipway.gateway.filter.matcher import Found, Hit, Matcher
from slipway.gateway.filter.normalise import HARD, Normalised

_RECENT = 16
"""Pieces kept for excerpts."""


class StreamMatcher:
    """One text, piece by piece.

    Args:
        field: what the hits say where they were found.
        most: hits that are kept; a blocking one always is.

    Attributes:
        hits: what was found so far, in order of their ends.
        blocked: the hit that ended the text, when one did.
    """

    def __init__(self, matcher: Matcher, field: str = "", *, most: int | None = None) -> None:
        self._matcher = matcher
        self._table = matcher.normaliser.table
        self._gaps = matcher.normaliser.gaps != "keep"
        self._field = field
        self._most = most
        self.hits: list[Hit] = []
        self.blocked: Hit | None = None
        # the text from the first character that still matters; `_raw` has the invisible ones too
        self._text = ""
        self._raw = ""
        self._invisible: dict[int, int] = {}  # how many stand before a place in `_text`
        self._normal: str | None = ""  # of `_text`, where every character became one
        self._before = ""  # the normal character before it
        self._done = 0  # normal characters whose matches are told
        self._sent = 0  # characters of `_raw` that are forwarded
        self._dropped = 0  # characters before `_raw`
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def feed(self, text: str) -> str:
        """The next piece; returns what can be forwarded now.

        After a blocking hit (`blocked`) that is what stood before it, and then nothing more.
        """
        if self.blocked is not None or not text:
            return ""
        self._recent.append(text)
        self._raw += text
        normal = text.translate(self._table)
        if HARD in normal:
            self._add_visible(text, normal)
        else:
            self._text += text
            if self._normal is not None and not self._gaps:
                whole = self._normal + normal
                return self._advance(whole, None, len(whole) - 1, final=False)
        view = self._matcher.normaliser(self._text)
        return self._advance(view.text, view, view.last, final=False)

    def finish(self) -> str:
        """The text is complete; returns what was held back, unless it is blocked."""
        if self.blocked is not None:
            return ""
        view = self._matcher.normaliser(self._text)
        return self._advance(view.text, view, view.last, final=True)

    def _add_visible(self, text: str, normal: str) -> None:
        """Characters that are taken out stand only in `_raw`."""
        for char, folded in zip(text, normal, strict=True):
            if folded == HARD and sort_of(char) == "nothing":
                at = len(self._text)
                self._invisible[at] = self._invisible.get(at, 0) + 1
            else:
                self._text += char

    def _advance(self, normal: str, view: Normalised | None, last: int, *, final: bool) -> str:
        size = len(normal)
        gap = self._matcher.normaliser.open_gap(normal) if self._gaps else -1
        settled = size if final else self._settled(normal, last, gap)
        if settled > self._done:
            stop = self._tell(normal, view, settled)
            if stop is not None:
                hold = self._matcher.blocking.live(normal, stop)
                return self._release(view, hold)
            self._done = settled
        if final:
            hold = keep = size
        else:
            keep, hold = self._bounds(normal, last, gap)
        out = self._release(view, hold)
        self._trim(normal, view, keep)
        return out

    def _settled(self, normal: str, last: int, gap: int) -> int:
        """How much of the normal text no later character can change or make part of a word."""
        settled = len(normal)
        if not normal:
            return 0
        if may_change(normal[last:]):
            settled = last
        if self._matcher.bounded and is_word_char(normal[-1]):
            settled = min(settled, len(normal) - 1)
        return settled if gap < 0 else min(settled, gap)

    def _tell(self, normal: str, view: Normalised | None, settled: int) -> int | None:
        """Notes new matches; where the first blocking one ends."""
        stop: int | None = None
        for found in self._matcher.find(normal, self._before, self._done):
            if found.end > (settled if stop is None else stop):
                break
            ends = found.entry.mode == "block" and stop is None
            if ends or self._most is None or len(self.hits) < self._most:
                self.hits.append(self._hit(found, view))
            if ends:
                self.blocked, stop = self.hits[-1], found.end
        return stop

    def _hit(self, found: Found, view: Normalised | None) -> Hit:
        start = self._offset(view.start(found.start) if view else found.start)
        end = self._offset(view.end(found.end) if view else found.end, ends=True)
        recent = "".join(self._recent)
        shift = len(recent) - len(self._raw)
        around = recent if shift >= 0 else self._raw
        shift = max(0, shift)
        entry = found.entry
        return Hit(
            rule=entry.rule,
            mode=entry.mode,
            group=entry.group,
            word=entry.word,
            start=self._dropped + start,
            end=self._dropped + end,
            excerpt=excerpt(around, start + shift, end + shift),
            field=self._field,
        )

    def _bounds(self, normal: str, last: int, gap: int) -> tuple[int, int]:
        """Where what still matters begins, and where what must be held back begins."""
        every, blocking = self._matcher.prefixes, self._matcher.blocking
        size = len(normal)
        keep = every.live(normal, size)
        hold = keep if blocking is every else blocking.live(normal, size)
        if size - last > 1 or self._may_become_a_words(normal[last:]):
            # the last segment is not settled, and what comes before it may go on otherwise
            keep = min(keep, every.live(normal, last))
            hold = min(hold, blocking.live(normal, last))
        if gap >= 0:
            # the gap may be passed over, and is one only behind the character before it
            keep = min(keep, every.live(normal, gap), gap - 1)
            hold = min(hold, blocking.live(normal, gap))
        return (keep, hold) if self._matcher.blocks else (keep, size)

    def _may_become_a_words(self, segment: str) -> bool:
        """Whether a mark could turn the last letter into one of a word's."""
        bases = self._matcher.bases
        if not bases:
            return False
        return any(char in bases for char in unicodedata.normalize("NFD", segment))

    def _offset(self, index: int, *, ends: bool = False) -> int:
        """Where in `_raw` the character of `_text` at `index` begins (or the one before ends)."""
        if not self._invisible:
            return index
        limit = index - 1 if ends else index
        return index + sum(count for at, count in self._invisible.items() if at <= limit)

    def _release(self, view: Normalised | None, hold: int) -> str:
        if hold == 0 and view is None and not self._invisible:
            return ""
        upto = self._offset(view.start(hold) if view else hold)
        if upto <= self._sent:
            return ""
        out = self._raw[self._sent : upto]
        self._sent = upto
        return out

    def _trim(self, normal: str, view: Normalised | None, keep: int) -> None:
        """Forgets the text before `keep`."""
        if view is None:
            self._normal = normal[keep:]
            cut = keep
        else:
            keep = view.floor(keep)
            cut = view.start(keep)
            plain = not view.steps and not self._gaps
            self._normal = normal[keep:] if plain or cut == len(self._text) else None
        raw_cut = self._offset(cut)
        if not raw_cut:
            return
        if keep:
            self._before = normal[keep - 1]
        self._text = self._text[cut:]
        self._raw = self._raw[raw_cut:]
        self._dropped += raw_cut
        self._sent -= raw_cut
        self._done = max(0, self._done - keep)
        if self._invisible:
            self._invisible = {at - cut: n for at, n in self._invisible.items() if at > cut}
