"""Tokens of a sample cut to the longest document: at the end, and never in silence.

A conversation loses its end; a document whose answers all lie behind the cut is dropped and
counted. Of a pair (and of a marked answer) the prompt loses its beginning first, the same number
of tokens on both sides, because the answer is the point; only an answer that is itself too long
loses its end. A plain text loses nothing: it is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipway.datasets.encoded import Row, Tokens
from slipway.datasets.model import Sample
from slipway.datasets.rule import EncodeRule

_PROMPT_SHARE = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a sample.

    Attributes:
        rows: documents with something to learn; two (chosen, rejected) or none of a `preference`.
        truncated: at least one document lost tokens.
        dropped: nothing is left, or one of several documents was dropped.
        longest: tokens of the longest document before the cut.
    """

    rows: tuple[Row, ...]
    truncated: bool
    dropped: bool
    longest: int


def cut(
    sample: Sample,
    documents: Sequence[Tokens],
    rule: EncodeRule,
    text_ends: tuple[list[int], list[int]],
) -> Cut:
    """Cut the documents of one sample.

    Args:
        text_ends: ids put before and after a plain text.
    """
    longest = max((len(document.ids) for document in documents), default=0)
    if sample.kind == "text":
        pieces = _pieces(sample.id, [*text_ends[0], *documents[0].ids, *text_ends[1]], rule)
        return Cut(pieces, False, not pieces, longest)
    if sample.kind in ("preference", "feedback"):
        documents = _shorten_prompt(documents, rule.cutoff_len)
    rows = tuple(_row(sample.id, document, rule.cutoff_len) for document in documents)
    if sample.kind == "chat" and len(rows) > 1:
        rows = tuple(
            Row(f"{row.id}#{number}", row.tokens) for number, row in enumerate(rows, start=1)
        )
    kept = tuple(row for row in rows if row.learns)
    if sample.kind == "preference" and len(kept) < len(rows):
        kept = ()
    return Cut(kept, longest > rule.cutoff_len, len(kept) < len(rows), longest)


def _row(name: str, document: Tokens, cutoff_len: int) -> Row:
    if len(document.ids) <= cutoff_len:
        return Row(name, document)
    spans = [(start, min(end, cutoff_len)) for start, end in document.spans]
    kept = tuple((start, end) for start, end in spans if start < end)
    return Row(name, Tokens(document.ids[:cutoff_len], kept))


def _shorten_prompt(documents: Sequence[Tokens], cutoff_len: int) -> list[Tokens]:
    longest = max(len(document.ids) for document in documents)
    if longest <= cutoff_len or not all(document.spans for document in documents):
        return list(documents)
    prompt = min(document.spans[0][0] for document in documents)
    # at least a quarter of the room stays for the prompt, however long the answer is
    spare = max(0, prompt - cutoff_len // _PROMPT_SHARE)
    lost = min(longest - cutoff_len, spare)
    return [
        Tokens(
            document.ids[lost:],
            tuple((start - lost, end - lost) for start, end in document.spans),
        )
        for document in documents
    ]


def _pieces(name: str, ids: list[int], rule: EncodeRule) -> tuple[Row, ...]:
    """Pieces of nearly equal length; each begins with the last token of the one before.

    That token is there to be read, not learned, so every token but the text's first is learned
    exactly once.
    """
    if len(ids) < 2 or rule.cutoff_len < 2:
        return ()
    steps = len(ids) - 1
    count = -(-steps // (rule.cutoff_len - 1))
    edges = [number * steps // count for number in range(count + 1)]
    pieces = []
    for number in range(count):
        piece = ids[edges[number] : edges[number + 1] + 1]
        label = f"{name}#{number + 1}" if count > 1 else name
        pieces.append(Row(label, Tokens(piece, ((1, len(piece)),))))
    return tuple(pieces)
