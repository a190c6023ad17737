"""One row as the model will see it: as it stands in the file, as text, and as tokens that are
learned or only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import NotFoundError
from slipway.core.i18n import tr
from slipway.datasets.cut import cut
from slipway.datasets.encode import tools_for
from slipway.datasets.encoded import IGNORE
from slipway.datasets.load import bad_row
from slipway.datasets.model import Sample, Split
from slipway.datasets.opened import GoodRow, open_splits, rows_in_step
from slipway.datasets.rule import EncodeRule
from slipway.datasets.source import DataSource


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document's text that is all learned, or all not."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token: its id, its text."""

    id: int
    text: str
    learned: bool

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {"id": self.id, "text": self.text, "learned": self.learned}


@dataclass(frozen=True, slots=True)
class DocumentView:
    """One text that is trained on.

    Attributes:
        rendered: the whole text by the chat template, before the cut-off.
        pieces: what is left after it, learned or not.
    """

    id: str
    rendered: str
    pieces: tuple[Piece, ...]
    tokens: tuple[TokenView, ...]

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(token.learned for token in self.tokens)

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "id": self.id,
            "rendered": self.rendered,
            "pieces": [{"text": piece.text, "learned": piece.learned} for piece in self.pieces],
            "tokens": [token.as_json() for token in self.tokens],
            "learned": self.learned,
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """A row in its three shapes.

    Attributes:
        documents: none without a tokenizer, or when the cut-off leaves nothing to learn.
        whole_tokens: of the longest document before the cut-off.
    """

    raw: dict[str, Any]
    sample: Sample
    documents: tuple[DocumentView, ...]
    whole_tokens: int
    truncated: bool
    dropped: bool

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "row": f"{self.sample.file.name}:{self.sample.line}",
            "id": self.sample.id,
            "kind": self.sample.kind,
            "raw": self.raw,
            "documents": [document.as_json() for document in self.documents],
            "tokens": self.whole_tokens,
            "truncated": self.truncated,
            "dropped": self.dropped,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which row: by its line (with the name of its file, or without), or by its id."""

    line: int | None = None
    file: str | None = None
    id: str | None = None

    def means(self, file: Path, line: int, name: str = "") -> bool:
        """Whether a row is the one; without line and id the first is."""
        if self.id is not None:
            return name == self.id
        return self.line in (None, line) and self.file in (None, file.name)

    def __str__(self) -> str:
        if self.id is not None:
            return self.id
        return f"{self.file}:{self.line}" if self.file else str(self.line)


def preview_row(
    source: DataSource, split: Split, wanted: Wanted, tokenizer: Any, rule: EncodeRule
) -> Preview:
    """Show a row.

    Args:
        tokenizer: from `load_tokenizer`; None: the row as it stands only.
        rule: its `pt` gives way to what the row is.

    Raises:
        NotFoundError: no such dataset, split or row.
        InputError: the row is bad, or cannot be encoded.
    """
    found = _find(source, split, wanted)
    sample = found.sample
    if tokenizer is None:
        return Preview(found.raw.value, sample, (), 0, False, False)
    from dataclasses import replace

    rule = replace(rule, pt=sample.kind == "text")
    tools = tools_for(tokenizer)
    documents = tools.documents(sample, rule)
    whole = [tools.encoder.obviously(document) for document in documents]
    done = cut(sample, whole, rule, tools.text_ends)
    # a text makes several pieces of one document; every other row one piece of each document
    texts = {f"#{number}": document.text for number, document in enumerate(documents, start=1)}
    views = []
    for number, row in enumerate(done.rows):
        encoded = row.encoded()
        at = row.id[row.id.rfind("#") :] if "#" in row.id else f"#{number + 1}"
        views.append(
            DocumentView(
                row.id,
                texts.get(at, documents[0].text),
                pieces(encoded.input_ids, encoded.labels, tokenizer),
                tuple(
                    TokenView(token, _shown(token, tokenizer), label != IGNORE)
                    for token, label in zip(encoded.input_ids, encoded.labels, strict=True)
                ),
            )
        )
    return Preview(
        found.raw.value, sample, tuple(views), done.longest, done.truncated, done.dropped
    )


def _shown(token: int, tokenizer: Any) -> str:
    """A token's text; of one that is only a part of a character, the tokenizer's own name."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def _find(source: DataSource, split: Split, wanted: Wanted) -> GoodRow:
    streams = open_splits(source)
    if split not in streams:
        raise NotFoundError(
            "data.no_split", tr("{path} has no {split} split", path=source.path, split=split)
        )

    for row in rows_in_step(streams[split]):
        if isinstance(row, GoodRow):
            if wanted.means(row.raw.file, row.raw.line, row.sample.id):
                return row
        elif wanted.id is None and wanted.means(row[0].file, row[0].line):
            raise bad_row(row[0], more=None, dataset=source.arguments)
    raise NotFoundError(
        "data.no_row",
        tr("{path} has no row {row}", path=source.path, row=str(wanted)),
        tr("rows are named by the line they begin in, as `slipway data check` does"),
    )


def pieces(ids: Sequence[int], labels: Sequence[int], tokenizer: Any) -> tuple[Piece, ...]:
    """A document's text, cut where learning begins and ends."""
    found: list[Piece] = []
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or (labels[at] != IGNORE) != (labels[start] != IGNORE):
            text = tokenizer.decode(ids[start:at], skip_special_tokens=False)
            found.append(Piece(text, labels[start] != IGNORE))
            start = at
    return tuple(found)
