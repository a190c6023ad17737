"""What a conversation of a certain shape becomes, worked out once: fixed texts with holes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slipway.datasets.model import Message
from slipway.datasets.traced import CHANGE, END, HOLE, Question, Trace

_PLACE = re.compile(f"{HOLE}(\\d+){END}(?:{CHANGE}(\\d+){END})?")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn from.

    Attributes:
        spans: ranges of characters that are learned, in order, apart from each other.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Form:
    """A document with holes.

    Attributes:
        parts: a text, or (number of the content, number of its change).
        edges: begin and end of the spans in order, each as (parts before it, characters after).
    """

    parts: tuple[str | tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]

    def fill(self, contents: Sequence[Sequence[str]]) -> Document:
        texts = [
            part if isinstance(part, str) else contents[part[0]][part[1]] for part in self.parts
        ]
        starts = [0]
        for text in texts:
            starts.append(starts[-1] + len(text))
        places = [starts[part] + chars for part, chars in self.edges]
        return Document("".join(texts), tuple(zip(places[::2], places[1::2], strict=True)))


class Skeleton:
    """The documents of every conversation of one shape, as far as its contents are ordinary.

    Args:
        documents: made of stand-ins.
        trace: what the template asked about them.
        answers: numbers of the contents that are answers.

    Raises:
        ValueError: a span begins or ends inside a content.
    """

    def __init__(self, documents: Sequence[Document], trace: Trace, answers: Sequence[int]) -> None:
        self._forms = [_form(document) for document in documents]
        self._changes = trace.changes[1:]
        self._questions: list[Question] = sorted(trace.questions, key=repr)
        self._answers = answers

    def fill(self, messages: Sequence[Message]) -> list[Document] | None:
        """The documents of a conversation of this shape; None if they must be rendered."""
        contents = [
            (message.content, *(getattr(message.content, m)(*a) for m, a in self._changes))
            for message in messages
        ]
        for number in self._answers:
            text = contents[number][0]
            # thoughts and edges that are spaces decide more than the template does
            if not text or text[0].isspace() or text[-1].isspace() or "think>" in text:
                return None
        for question in self._questions:
            if not question.same_for(contents[question.hole][question.change]):
                return None
        return [form.fill(contents) for form in self._forms]


def _form(document: Document) -> _Form:
    parts: list[str | tuple[int, int]] = []
    starts: list[int] = []
    at = 0
    for found in _PLACE.finditer(document.text):
        if found.start() > at:
            parts.append(document.text[at : found.start()])
            starts.append(at)
        parts.append((int(found[1]), int(found[2] or 0)))
        starts.append(found.start())
        at = found.end()
    parts.append(document.text[at:])
    starts.append(at)
    edges = [_edge(place, starts, parts) for span in document.spans for place in span]
    return _Form(tuple(parts), tuple(edges))


def _edge(
    place: int, starts: Sequence[int], parts: Sequence[str | tuple[int, int]]
) -> tuple[int, int]:
    part = max(number for number, start in enumerate(starts) if start <= place)
    if place > starts[part] and not isinstance(parts[part], str):
        raise ValueError("a span ends inside a content")
    return part, place - starts[part]
