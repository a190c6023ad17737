"""Measuring one model: load it once, or start its server once, and only if something is missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slipway.core.events import EventLog
from slipway.evaluation import choice_scores
from slipway.evaluation.ask import ask_all, context_for, gguf_server
from slipway.evaluation.choices import ChoiceSet
from slipway.evaluation.endpoint import Endpoint
from slipway.evaluation.models import Model
from slipway.evaluation.plan import CHOICES, PREDICTIONS, Plan
from slipway.evaluation.predictions import Lines, Prediction
from slipway.evaluation.questions import Question, QuestionSet
from slipway.export.parts import Parts

if TYPE_CHECKING:
    from slipway.evaluation.local import LocalModel

_FIELDS = frozenset(Prediction.__dataclass_fields__)


class ModelWork:
    """One model under test; use as a context manager, which ends its server.

    Args:
        questions: what is answered and whose loss is measured.
        choices: a multiple-choice set.
    """

    def __init__(
        self,
        plan: Plan,
        model: Model,
        questions: QuestionSet | None,
        choices: ChoiceSet | None,
        log: EventLog,
    ) -> None:
        self.plan, self.model, self.log = plan, model, log
        self.questions, self.choices = questions, choices
        self._open = ExitStack()

    def __enter__(self) -> ModelWork:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    @cached_property
    def local(self) -> LocalModel:
        """The model in memory."""
        from slipway.evaluation.local import LocalModel

        return LocalModel(self.model, dtype=self.plan.dtype, template=self.plan.template)

    @cached_property
    def endpoint(self) -> Endpoint:
        """The model's server: its own, or one started here for a GGUF."""
        if self.model.kind == "endpoint":
            return self._open.enter_context(Endpoint(self.model.url, self.model.key))
        asked = self.questions.questions if self.questions else []
        prompts = [q.prompt for q in asked]
        turns = max((len(q.messages) for q in asked), default=1)
        prompts += [c.prompt for c in self.choices.choices] if self.choices else []
        context = context_for(prompts, turns, self.plan.generation.max_new_tokens)
        return self._open.enter_context(
            gguf_server(self.plan.server, self.model, context=context, slots=self.plan.at_once)
        )

    @property
    def _template(self) -> str | None:
        """The chat template that is not the model folder's own: its text or its name."""
        own = self.model.template
        return own.read_text(encoding="utf-8") if own else self.plan.template

    def losses(self, parts: Parts) -> dict[str, list[Any]]:
        """`rows`, `cut` and `dropped` as in `LossRows`; kept in a file once measured."""
        assert self.questions is not None
        samples = self.questions.samples
        done = [0]

        def on_pack() -> None:
            done[0] += 1
            self._progress("loss", done[0], 0)

        found: dict[str, list[Any]] = parts.get(
            f"{self.model.label}.loss",
            [
                self.model.digest,
                [[s.id, s.text, [[m.role, m.content] for m in s.messages]] for s in samples],
                self.plan.cutoff_len,
                self.plan.dtype,
                self._template,
            ],
            lambda: asdict(self.local.losses(samples, self.plan.cutoff_len, on_pack)),
        )
        return found

    def answers(self) -> list[Prediction]:
        """Every answer, made now or found on disk."""
        assert self.questions is not None
        asked = self.questions.questions
        identity = {
            "model": self.model.digest,
            "data": self.questions.digest,
            **self.plan.generation.as_json(),
        }
        if self.model.has_weights and self._template:
            identity["template"] = self._template
        if self.model.has_weights and self.plan.generation.temperature:
            identity["batch"] = self.plan.batch  # draws are made batch by batch
        path = self.plan.out_dir / PREDICTIONS / f"{self.model.label}.jsonl"
        with Lines(path, identity) as lines:

            def keep(prediction: Prediction) -> None:
                lines.add(prediction.id, prediction.line())
                self._progress("answers", len(lines.found), len(asked))

            self._answer([q for q in asked if _missing(lines.found, q.id)], keep)
            found = lines.finish([q.id for q in asked])
        return [Prediction(**{k: v for k, v in line.items() if k in _FIELDS}) for line in found]

    def _answer(self, missing: Sequence[Question], keep: Callable[[Prediction], None]) -> None:
        if not missing:
            return
        plan, generation = self.plan, self.plan.generation
        if not self.model.has_weights:
            ask_all(
                self.endpoint,
                self.model.name or self.model.label,
                missing,
                generation,
                keep,
                at_once=plan.at_once,
            )
            return
        wanted = {question.id for question in missing}
        for number, batch in enumerate(self._batches()):
            if not wanted.isdisjoint(q.id for q in batch):
                self.local.answer(batch, generation, generation.seed + number, _only(wanted, keep))

    def _batches(self) -> list[list[Question]]:
        """Batches of prompts of like length, the same whatever is done already.

        So an interrupted evaluation draws the same answers as an uninterrupted one. The batches
        are shuffled, which makes the progress steady.
        """
        assert self.questions is not None
        size = self.plan.batch
        ordered = sorted(self.questions.questions, key=lambda q: (len(q.prompt), q.id))
        batches = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        random.Random(0).shuffle(batches)
        return batches

    def chosen(self) -> list[dict[str, Any]]:
        """The letter that the model takes for each question of the set."""
        assert self.choices is not None
        asked = self.choices.choices
        path = self.plan.out_dir / CHOICES / f"{self.model.label}.jsonl"
        identity = {"model": self.model.digest, "choices": self.choices.digest}
        with Lines(path, identity) as lines:

            def keep(given: choice_scores.Given) -> None:
                lines.add(given.id, given.line())
                self._progress("choices", len(lines.found), len(asked))

            missing = [c for c in asked if _missing(lines.found, c.id)]
            if not missing:
                pass
            elif self.model.has_weights:
                choice_scores.choose_locally(self.local, missing, keep)
            elif self.model.kind == "gguf":
                choice_scores.choose_by_llama(
                    self.endpoint, missing, keep, at_once=self.plan.at_once
                )
            else:
                choice_scores.choose_by_text(
                    self.endpoint, self.model.name, missing, keep, at_once=self.plan.at_once
                )
            return lines.finish([c.id for c in asked])

    def _progress(self, part: str, done: int, total: int) -> None:
        self.log.emit(
            "progress",
            stage="eval",
            part=f"{self.model.label} {part}",
            done=done,
            total=total,
            fraction=done / total if total else None,
        )


def _missing(found: dict[str, dict[str, Any]], key: str) -> bool:
    return key not in found or bool(found[key].get("error"))


def _only(wanted: set[str], keep: Callable[[Prediction], None]) -> Callable[[Prediction], None]:
    def kept(prediction: Prediction) -> None:
        if prediction.id in wanted:
            keep(prediction)

    return kept
