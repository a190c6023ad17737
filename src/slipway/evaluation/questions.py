"""What is asked: the prompt of each row, and the answer it should have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.datasets import Message, Sample, load_dataset
from slipway.evaluation.run_data import Part, RunData
from slipway.export.eval_inputs import spread


@dataclass(frozen=True, slots=True)
class Question:
    """One row to answer.

    Attributes:
        id: unique within the set.
        sample: as it was read, with that id; its last answer is the reference.
        messages: the prompt in OpenAI's shape, ending with what is to be answered.
        reference: what a good answer says.
    """

    id: str
    sample: Sample
    messages: tuple[dict[str, Any], ...]
    reference: str

    @property
    def prompt(self) -> str:
        """The prompt as text for people: one line for each turn, after its role."""
        return "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in self.messages)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions, the rows for the loss, and what they are.

    Attributes:
        questions: to be answered in words; empty for plain text.
        samples: rows whose loss is measured, ids unique.
        digest: of the contents that were used, whatever file they came from.
        left_out: rows without a reference (feedback marked bad), by id.
    """

    questions: list[Question]
    samples: list[Sample]
    digest: str
    left_out: list[str]


def read_questions(
    path: Path | RunData,
    *,
    part: Part = "heldout",
    rows: int | None = None,
    system: str | None = None,
) -> QuestionSet:
    """Read a dataset folder (one part of it), a file of rows, or the data of a run.

    Args:
        rows: at most so many, taken evenly over the whole; None for all.
        system: a system turn for every prompt; replaces the row's own. "" removes it.

    Raises:
        NotFoundError: no such file, or no such part.
        InputError: a row is bad, or no row can be asked.
    """
    return make_questions(load_part(path, part), path, rows=rows, system=system)


def make_questions(
    samples: Sequence[Sample],
    path: Path | RunData,
    *,
    rows: int | None = None,
    system: str | None = None,
) -> QuestionSet:
    """Questions from samples; see `read_questions`."""
    usable = [sample for sample in samples if sample.desirable is not False]
    left_out = [sample.id for sample in samples if sample.desirable is False]
    if not usable:
        raise InputError(
            "eval.no_rows",
            tr("{path} holds no row that can be asked", path=str(path)),
            tr("look at the rows with `slipway data check {path}`", path=str(path)),
        )
    chosen = _unique_ids(spread(usable, rows))
    questions = [_question(sample, system) for sample in chosen if sample.kind != "text"]
    content = [[q.id, list(q.messages), q.reference, list(q.sample.tools)] for q in questions] + [
        [s.id, s.text] for s in chosen if s.kind == "text"
    ]
    return QuestionSet(
        questions, [_as_chat(s) for s in chosen], "sha256:" + sha256_json(content), left_out
    )


def load_part(path: Path | RunData, part: Part) -> list[Sample]:
    """The samples of one part of a dataset folder, of a file, or of a run's data."""
    if isinstance(path, RunData):
        return path.samples(part)
    if path.is_file():
        return load_dataset(path)
    if part == "all":
        return [*load_dataset(path, "train"), *load_dataset(path, "heldout")]
    return load_dataset(path, part)


def _unique_ids(samples: Sequence[Sample]) -> list[Sample]:
    seen: Counter[str] = Counter()
    unique = []
    for sample in samples:
        seen[sample.id] += 1
        count = seen[sample.id]
        unique.append(sample if count == 1 else replace(sample, id=f"{sample.id}#{count}"))
    return unique


def _as_chat(sample: Sample) -> Sample:
    """A preference becomes the conversation with the better answer; the rest stays."""
    if sample.chosen is None:
        return replace(sample, desirable=None)
    return replace(sample, messages=(*sample.messages, sample.chosen), chosen=None, rejected=None)


def _question(sample: Sample, system: str | None) -> Question:
    turns = _as_chat(sample).messages
    asked = [as_openai(message) for message in turns[:-1]]
    if system is not None:
        asked = [m for m in asked if m["role"] != "system"]
        if system:
            asked.insert(0, {"role": "system", "content": system})
    return Question(sample.id, sample, tuple(asked), _words_of(turns[-1]))


def as_openai(message: Message) -> dict[str, Any]:
    """A turn in OpenAI's shape, tool calls included."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(call.arguments, ensure_ascii=False),
                },
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return turn


def _words_of(message: Message) -> str:
    """The answer's text; its tool calls as JSON, one for each line."""
    calls = [
        json.dumps({"name": c.name, "arguments": c.arguments}, ensure_ascii=False, sort_keys=True)
        for c in message.tool_calls
    ]
    return "\n".join([*([message.content] if message.content else []), *calls])
