"""A document as token ids and labels."""

from __future__ import annotations

from dataclasses import dataclass

IGNORE = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document as tokens.

    Attributes:
        input_ids: token ids, at most the cut-off length.
        labels: as long; the id itself where the token is learned, else -100. Not shifted:
            `labels[i]` belongs to `input_ids[i]`.
    """

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORE for label in self.labels)


@dataclass(frozen=True, slots=True)
class LongRow:
    """A row that was longer than the cut-off; `tokens` is its whole length."""

    id: str
    file: str
    line: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A whole document as tokens, before any cut.

    Attributes:
        spans: ranges of tokens that are learned, in order, apart from each other.
    """

    ids: list[int]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A document after the cut, in its compact form: `Encoded` without a label for each token."""

    id: str
    tokens: Tokens

    @property
    def learns(self) -> bool:
        """Something is learned; a first token is predicted from nothing, so it does not count."""
        return any(end > 1 for _, end in self.tokens.spans)

    def encoded(self) -> Encoded:
        """The row with its labels."""
        labels = [IGNORE] * len(self.tokens.ids)
        for start, end in self.tokens.spans:
            labels[start:end] = self.tokens.ids[start:end]
        return Encoded(self.id, self.tokens.ids, labels)
