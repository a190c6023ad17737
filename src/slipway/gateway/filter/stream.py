"""Words found in a text that arrives in pieces, none of a blocked one let through.

Held back is only what may still become a match: the longest end of the text that begins a blocking
word, and a letter that a mark could turn into one of a word's letters. Everything else is forwarded
at once.
"""

from __future__ import annotations

from collections import deque

from slipway.gateway.filter.characters import is_word_char, may_change, sort_of
from slipway.gateway.filter.excerpt import excerpt
from slipway.gateway.filter.matcher import Found, Hit, Matcher
from slipway.gateway.filter.normalise import HARD, Normalised
from slipway.gateway.filter.steps import MAX_PIECE, Place

_RECENT = 48
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
        self._field = field
        self._most = most
        self.hits: list[Hit] = []
        self.blocked: Hit | None = None
        self._place: Place | None = matcher.steps.start
        # where there is no place: the text from the first character that still matters; `_raw` has
        # the invisible ones too
        self._text = ""
        self._raw = ""
        self._invisible: dict[int, int] = {}  # how many stand before a character of `_text`
        self._before = ""  # the normal character before it
        self._told = 0  # where the last match that was told ends in its normal form
        self._sent = 0  # characters of `_raw` that are forwarded
        self._fed = 0  # characters of the whole text
        self._recent: deque[str] = deque(maxlen=_RECENT)

    def feed(self, text: str) -> str:
        """The next piece; returns what can be forwarded now.

        After a blocking hit (`blocked`) that is what stood before it, and then nothing more.
        """
        if self.blocked is not None or not text:
            return ""
        self._recent.append(text)
        self._fed += len(text)
        place = self._place
        if place is not None:
            step = place.steps.get(text)
            if step is None:
                step = self._steps(place, text)
            if step is not None:
                self._place, out = step
                return out
            self._leave(place)
        self._raw += text
        normal = text.translate(self._table)
        if HARD in normal:
            self._add_visible(text, normal)
        else:
            self._text += text
        return self._advance(final=False)

    def finish(self) -> str:
        """The text is complete; returns what was held back, unless it is blocked."""
        if self.blocked is not None:
            return ""
        if self._place is not None:
            self._leave(self._place)
        return self._advance(final=True)

    def _steps(self, place: Place, text: str) -> tuple[Place, str] | None:
        """A new piece, by the steps of its characters, most of which are known."""
        one = self._char_step if self._matcher.plain else self._step
        if not 1 < len(text) <= MAX_PIECE:
            return (one if len(text) == 1 else self._step)(place, text)
        at, out = place, ""
        for char in text:
            step = at.steps.get(char) or one(at, char)
            if step is None:
                return None
            at, freed = step
            out += freed
        return self._matcher.steps.keep(place, text, at, out)

    def _char_step(self, place: Place, char: str) -> tuple[Place, str] | None:
        """As `_step`, for one character and a `plain` matcher: Aho and Corasick's way.

        Where the character does not go on from here, it does what it does behind the longest end
        of the text that begins a word. There is no match in a place's text.
        """
        matcher, steps = self._matcher, self._matcher.steps
        folded = self._table[ord(char)]
        if folded == HARD:
            return None
        normal = place.normal + folded
        if normal in matcher.prefixes:
            if matcher.has_match(normal):
                return None
            return steps.keep(place, char, steps.place(place.text + char, normal, "", 0), "")
        if not place.normal:
            return steps.keep(place, char, place, char)
        at = matcher.prefixes.live(place.normal, len(place.normal), first=1)
        behind = steps.place(place.text[at:], place.normal[at:], "", 0)
        step = behind.steps.get(char) or self._char_step(behind, char)
        return step and steps.keep(place, char, step[0], place.text[:at] + step[1])

    def _step(self, place: Place, text: str) -> tuple[Place, str] | None:
        """What a piece does when every character becomes one and nothing matches; else None."""
        matcher, steps = self._matcher, self._matcher.steps
        piece = text.translate(self._table)
        normal = place.normal + piece
        if HARD in piece or matcher.has_match(normal):
            return None
        if steps.gaps and matcher.normaliser.has_gap(normal):
            return None
        size = len(normal)
        keep, hold = self._bounds(normal, size - 1, matcher.normaliser.open_gap(normal))
        whole = place.text + text
        out = whole[place.sent : hold]
        before = normal[keep - 1] if keep else place.before
        to = steps.place(whole[keep:], normal[keep:], before, max(hold, place.sent) - keep)
        return steps.keep(place, text, to, out)

    def _leave(self, place: Place) -> None:
        """What the next piece does must be worked out in full."""
        self._text = self._raw = place.text
        self._before, self._sent, self._told = place.before, place.sent, 0
        self._place = None

    def _return(self, normal: str | None) -> None:
        """Back to a place, where the rest of the text is plain and has no match."""
        if normal is None or self._invisible or self._told:
            return
        if not self._matcher.has_match(normal):
            self._place = self._matcher.steps.place(self._text, normal, self._before, self._sent)

    def _add_visible(self, text: str, normal: str) -> None:
        """Characters that are taken out stand only in `_raw`."""
        for char, folded in zip(text, normal, strict=True):
            if folded == HARD and sort_of(char) == "nothing":
                at = len(self._text)
                self._invisible[at] = self._invisible.get(at, 0) + 1
            else:
                self._text += char

    def _advance(self, *, final: bool) -> str:
        view = self._matcher.normaliser(self._text)
        normal, last, size = view.text, view.last, len(view.text)
        gap = self._matcher.normaliser.open_gap(normal)
        settled = size if final else self._settled(normal, last, gap)
        stop = self._tell(view, settled)
        if stop is not None:
            return self._release(view, self._matcher.blocking.live(normal, stop))
        hold = keep = size
        if not final:
            keep, hold = self._bounds(normal, last, gap)
        out = self._release(view, hold)
        self._trim(view, keep)
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

    def _tell(self, view: Normalised, settled: int) -> int | None:
        """Notes new matches; where the first blocking one ends."""
        stop: int | None = None
        last = 0
        for found in self._matcher.find(view.text, self._before, self._told):
            if found.end > (settled if stop is None else stop):
                break
            ends = found.entry.mode == "block" and stop is None
            if ends or self._most is None or len(self.hits) < self._most:
                self.hits.append(self._hit(found, view))
            if ends:
                self.blocked, stop = self.hits[-1], found.end
            last = found.end
        self._told = max(self._told, last)
        return stop

    def _hit(self, found: Found, view: Normalised) -> Hit:
        start = self._offset(view.start(found.start))
        end = self._offset(view.end(found.end), ends=True)
        recent = "".join(self._recent)
        shift = max(0, len(recent) - len(self._raw))
        around = recent if shift else self._raw
        entry = found.entry
        dropped = self._fed - len(self._raw)
        return Hit(
            rule=entry.rule,
            mode=entry.mode,
            group=entry.group,
            word=entry.word,
            start=dropped + start,
            end=dropped + end,
            excerpt=excerpt(around, start + shift, end + shift, cut=True),
            field=self._field,
        )

    def _bounds(self, normal: str, last: int, gap: int) -> tuple[int, int]:
        """Where what still matters begins, and where what must be held back begins.

        Args:
            last: where the last segment begins.
            gap: where a gap at the end begins; -1 without one.
        """
        matcher = self._matcher
        every, blocking = matcher.prefixes, matcher.blocking
        size = len(normal)
        keep = every.live(normal, size)
        hold = keep if blocking is every else blocking.live(normal, size)
        if size - last > 1 or (matcher.bases and matcher.may_become_a_words(normal[last:])):
            # the last segment is not settled, and what comes before it may go on otherwise
            keep = min(keep, every.live(normal, last))
            hold = min(hold, blocking.live(normal, last))
        if gap >= 0:
            # the gap may be passed over, and is one only behind the character before it
            keep = min(keep, every.live(normal, gap), gap - 1)
            hold = min(hold, blocking.live(normal, gap))
        return (keep, hold) if matcher.blocks else (keep, size)

    def _offset(self, index: int, *, ends: bool = False) -> int:
        """Where in `_raw` the character of `_text` at `index` begins (or the one before ends)."""
        if not self._invisible:
            return index
        limit = index - 1 if ends else index
        return index + sum(count for at, count in self._invisible.items() if at <= limit)

    def _release(self, view: Normalised, hold: int) -> str:
        upto = self._offset(view.start(hold))
        if upto <= self._sent:
            return ""
        out = self._raw[self._sent : upto]
        self._sent = upto
        return out

    def _trim(self, view: Normalised, keep: int) -> None:
        """Forgets the text before `keep`."""
        keep = view.floor(keep)
        cut = view.start(keep)
        raw_cut = self._offset(cut)
        if keep:
            self._before = view.text[keep - 1]
        self._text = self._text[cut:]
        self._raw = self._raw[raw_cut:]
        self._sent -= raw_cut
        self._told = max(0, self._told - keep)
        if self._invisible:
            self._invisible = {at - cut: n for at, n in self._invisible.items() if at > cut}
        plain = not view.steps or not self._text
        self._return(view.text[keep:] if plain else None)
