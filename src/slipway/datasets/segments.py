"""Documents into tokens, quickly: split at control tokens, each repeated piece encoded once.

A tokenizer cuts a text at its control tokens before it does anything else, so the pieces between
them can be encoded apart, those that every conversation has (the system turn, `user\\n`) only once,
and without the positions of tokens, which cost more than the tokens. Where an answer begins inside
a piece is known when the piece's ids begin with the ids of what stands before it. Where that does
not hold (a newline of the template merged with the answer's), and wherever the tokenizer is not
proved to work like this, the whole text is encoded with positions: the obvious way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from slipway.datasets.encoded import Tokens
from slipway.datasets.skeleton import Document

# so many documents are encoded both ways and compared, and one in so many later on
_CHECKED_FIRST, _CHECKED_EVERY = 64, 4096
# a piece found so often in one batch is remembered
_REPEATED, _MAX_REMEMBERED, _MAX_CHARS = 8, 4096, 20_000
_PROBES = ("a", " a", "a ", "\na", "A b\n\n", "你 é", "  ")


class SegmentEncoder:
    """Encodes documents with one tokenizer.

    Args:
        plain: a `tokenizers.Tokenizer` without post-processor, padding and truncation.
        cuts: control tokens at which texts are cut; those that the template writes.
    """

    def __init__(self, plain: Any, cuts: Sequence[str]) -> None:
        self._plain = plain
        self._ids: dict[str, list[int]] = {cut: [plain.token_to_id(cut)] for cut in cuts}
        longest_first = sorted(map(re.escape, cuts), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(longest_first)})").split
        self._exact = bool(cuts) and self._proved(cuts)
        self._known: dict[str, list[int]] = {}
        self._done = 0

    def start(self, documents: Sequence[Document]) -> Batch:
        """Prepare a batch; then `run` it (in any thread) and `finish` it."""
        pieces = [self._split(document.text) for document in documents] if self._exact else []
        return Batch(documents, pieces, self)

    def encode(self, documents: Sequence[Document]) -> list[Tokens]:
        """All at once."""
        batch = self.start(documents)
        batch.run()
        return self.finish(batch)

    def finish(self, batch: Batch) -> list[Tokens]:
        """The tokens of a batch that was run."""
        if batch.obvious is not None:
            return batch.obvious
        if not self._exact:  # found out since this batch was started
            return [self.obviously(document) for document in batch.documents]
        self._remember(batch)
        done = []
        for document, pieces in zip(batch.documents, batch.pieces, strict=True):
            tokens = self._join(document, pieces, batch.ids)
            self._done += 1
            if tokens is None:
                tokens = self.obviously(document)
            elif self._done <= _CHECKED_FIRST or self._done % _CHECKED_EVERY == 0:
                obvious = self.obviously(document)
                if obvious != tokens:
                    self._exact = False
                    return [self.obviously(document) for document in batch.documents]
            done.append(tokens)
        return done

    def obviously(self, document: Document) -> Tokens:
        """Encode the whole text and look up the position of every token."""
        return tokens_of(document, self._plain.encode(document.text, add_special_tokens=False))

    def run(self, batch: Batch) -> None:
        """What needs no interpreter lock."""
        if not batch.pieces:
            texts = [document.text for document in batch.documents]
            if not any(document.spans for document in batch.documents):
                batch.obvious = [Tokens(ids, ()) for ids in self._many(texts)]
                return
            encodings = self._plain.encode_batch(texts, add_special_tokens=False)
            batch.obvious = list(map(tokens_of, batch.documents, encodings))
            return
        new = [piece for piece in batch.counts if piece not in self._known and piece]
        batch.ids = dict(zip(new, self._many(new), strict=True))

    def _many(self, texts: list[str]) -> list[list[int]]:
        done = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in done]

    def _remember(self, batch: Batch) -> None:
        for piece, times in batch.counts.items():
            if len(self._known) >= _MAX_REMEMBERED:
                return  # never forgotten again: a batch on its way may count on any of them
            if times >= _REPEATED and piece in batch.ids and len(piece) <= _MAX_CHARS:
                self._known[piece] = batch.ids[piece]

    def _join(
        self, document: Document, pieces: list[str], new: dict[str, list[int]]
    ) -> Tokens | None:
        """The tokens of all pieces; None if a span does not fall between two of them."""
        wanted = [place for span in document.spans for place in span]
        found: list[int] = []
        ids: list[int] = []
        at = number = 0
        for index, piece in enumerate(pieces):
            if not piece:
                continue
            known = self._known
            part = self._ids[piece] if index % 2 else known.get(piece) or new[piece]
            end = at + len(piece)
            while number < len(wanted) and wanted[number] < end:
                inside = self._inside(piece, part, wanted[number] - at)
                if inside is None:
                    return None
                found.append(len(ids) + inside)
                number += 1
            ids.extend(part)
            at = end
        found.extend([len(ids)] * (len(wanted) - number))
        spans = zip(found[::2], found[1::2], strict=True)
        return Tokens(ids, tuple((start, end) for start, end in spans if start < end))

    def _inside(self, piece: str, ids: list[int], chars: int) -> int | None:
        """How many tokens of a piece its first `chars` characters are; None if that is unclear."""
        if chars == 0:
            return 0
        head = piece[:chars]
        before = self._known.get(head)
        if before is None:
            before = self._plain.encode(head, add_special_tokens=False).ids
            if len(self._known) < _MAX_REMEMBERED and len(head) <= _MAX_CHARS:
                self._known[head] = before
        return len(before) if ids[: len(before)] == before else None

    def _proved(self, cuts: Sequence[str]) -> bool:
        """Whether pieces encoded apart give what the tokenizer gives for the whole."""
        for cut in cuts:
            for before, after in pairwise((*_PROBES, *_PROBES[::2])):
                whole = self._plain.encode(before + cut + after, add_special_tokens=False).ids
                apart = [
                    self._plain.encode(t, add_special_tokens=False).ids for t in (before, after)
                ]
                if whole != [*apart[0], *self._ids[cut], *apart[1]]:
                    return False
        return True


class Batch:
    """Documents on their way through a `SegmentEncoder`."""

    def __init__(
        self, documents: Sequence[Document], pieces: list[list[str]], encoder: SegmentEncoder
    ) -> None:
        self.documents, self.pieces = documents, pieces
        self.counts = Counter(piece for split in pieces for piece in split[::2])
        self.ids: dict[str, list[int]] = {}
        self.obvious: list[Tokens] | None = None
        self.run: Callable[[], None] = lambda: encoder.run(self)


def tokens_of(document: Document, encoding: Any) -> Tokens:
    """Ids and learned ranges of a document from its `tokenizers.Encoding`, token by token.

    A token is learned when all its characters are: one that begins before its span (a newline of
    the template merged with one of the answer) is never generated.
    """
    offsets = encoding.offsets
    learned = [False] * len(offsets)
    for low, high in document.spans:
        for index, (start, end) in enumerate(offsets):
            if low <= start and end <= high:
                learned[index] = True
    edges = [i for i, (a, b) in enumerate(pairwise([False, *learned, False])) if a != b]
    return Tokens(encoding.ids, tuple(zip(edges[::2], edges[1::2], strict=True)))
