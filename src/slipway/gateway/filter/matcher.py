"""Many words found at once: rules compiled into an Aho-Corasick automaton over normal texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.gateway.filter.characters import bases_of, is_word_char, sort_of
from slipway.gateway.filter.normalise import Normaliser
from slipway.gateway.filter.steps import Steps
from slipway.gateway.filter.words import MAX_WORD, Mode, Rule, Word

if TYPE_CHECKING:
    from ahocorasick_rs import AhoCorasick


@dataclass(frozen=True, slots=True)
class Entry:
    """A word of a rule, ready to be searched."""

    rule: str
    mode: Mode
    group: str
    word: str
    bounded_left: bool
    bounded_right: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """A word that was found.

    Attributes:
        rule: the rule's name.
        mode: what the rule does.
        group: the word's group, empty when it has none.
        word: as the list has it.
        start: where it begins in the text as written.
        end: where it ends there.
        excerpt: text around it with the word and personal data masked, for logs.
        field: which text of a body, such as `messages[2].content`; `choice 0` in a stream.
    """

    rule: str
    mode: Mode
    group: str
    word: str
    start: int
    end: int
    excerpt: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A match in a normal text: `text[start:end]`."""

    start: int
    end: int
    entry: Entry


class Prefixes:
    """Beginnings of words: how much of a text's end may become a match."""

    def __init__(self, words: Iterable[str]) -> None:
        self.longest = 0
        self._known: set[str] = set()
        for word in words:
            self.longest = max(self.longest, len(word))
            self._known.update(word[:size] for size in range(1, len(word) + 1))

    def __contains__(self, text: str) -> bool:
        return text in self._known

    def live(self, text: str, end: int, *, first: int = 0) -> int:
        """Where the longest end of `text[:end]` that begins a word starts; `end` if none does.

        Args:
            first: starts before this one do not count.
        """
        known = self._known
        for start in range(max(first, end - self.longest), end):
            if text[start:end] in known:
                return start
        return end


class Matcher:
    """Finds the words of rules in texts.

    Args:
        rules: each word is normalised by `normaliser`.

    Raises:
        InputError: of a word nothing is left, or it begins with a mark that belongs to a letter.
    """

    def __init__(self, rules: Iterable[Rule], normaliser: Normaliser) -> None:
        self.normaliser = normaliser
        entries: dict[str, list[Entry]] = {}
        for rule in rules:
            for word in rule.chosen():
                text = self._normal(word)
                entry = _entry(rule, word, text)
                known = entries.setdefault(text, [])
                if entry not in known:
                    known.append(entry)
        self._words = list(entries)
        self._entries = list(entries.values())
        flat = [(text, one) for text, ones in entries.items() for one in ones]
        self.bounded = any(one.bounded_right for _, one in flat)
        self.blocks = any(one.mode == "block" for _, one in flat)
        self.bases = bases_of({char for word in self._words for char in word})
        self.prefixes = Prefixes(self._words)
        blocking = {text for text, one in flat if one.mode == "block"}
        whole = len(blocking) == len(self._words)
        self.blocking = self.prefixes if whole else Prefixes(blocking)
        left = any(one.bounded_left for _, one in flat)
        self.steps = Steps(self.normaliser.gaps != "keep", self.bounded or left)
        # every word blocks, and neither neighbours, marks nor gaps count
        bounds = self.bounded or left or bool(self.bases)
        self.plain = whole and self.blocks and not bounds and not self.steps.gaps
        self._automaton: AhoCorasick | None = None
        if self._words:
            from ahocorasick_rs import AhoCorasick

            self._automaton = AhoCorasick(self._words)

    def may_become_a_words(self, segment: str) -> bool:
        """Whether a mark could turn a letter of a text's last segment into one of a word's."""
        bases = self.bases
        if not bases:
            return False
        return any(char in bases for char in unicodedata.normalize("NFD", segment))

    def has_match(self, text: str) -> bool:
        """Whether any word stands in a normal text, bounded or not."""
        automaton = self._automaton
        return automaton is not None and bool(
            automaton.find_matches_as_indexes(text, overlapping=True)
        )

    def __len__(self) -> int:
        return len(self._words)

    def _normal(self, word: Word) -> str:
        text = self.normaliser(word.text).text.strip()
        where = word.origin or f"`{word.text}`"
        if not text:
            raise InputError(
                "filter.empty_word",
                tr("{where}: nothing of the word is left to search for", where=where),
                tr("take the line out: it has only spaces or invisible characters"),
            )
        if sort_of(text[0]) != "letter":
            raise InputError(
                "filter.mark_first",
                tr("{where}: the word begins with a mark that belongs to a letter", where=where),
                tr("write the letter before it"),
            )
        if len(text) > MAX_WORD:
            raise InputError(
                "filter.long_word",
                tr("{where}: a word of {count} characters; the most is {most}", where=where,
                   count=len(text), most=MAX_WORD),
                tr("write one word or phrase a line"),
            )  # fmt: skip
        return text

    def find(self, text: str, before: str = "", after: int = 0) -> Iterator[Found]:
        """Every match in a normal text, overlapping ones too, by end, then start.

        Args:
            before: the character before the text.
            after: only matches that end behind this position.
        """
        if self._automaton is None:
            return
        spans = self._automaton.find_matches_as_indexes(text, overlapping=True)
        if not spans:
            return
        for index, start, end in sorted(spans, key=lambda span: (span[2], span[1])):
            if end > after:
                for entry in self._entries[index]:
                    if _stands_alone(entry, text, start, end, before):
                        yield Found(start, end, entry)


def _entry(rule: Rule, word: Word, text: str) -> Entry:
    return Entry(
        rule=rule.name,
        mode=rule.mode,
        group=word.group,
        word=word.text,
        bounded_left=rule.whole_words and is_word_char(text[0]),
        bounded_right=rule.whole_words and is_word_char(text[-1]),
    )


def _stands_alone(entry: Entry, text: str, start: int, end: int, before: str) -> bool:
    if entry.bounded_left:
        left = text[start - 1] if start else before
        if left and is_word_char(left):
            return False
    return not (entry.bounded_right and end < len(text) and is_word_char(text[end]))
