"""Asking every variant every prompt, under equal conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

from slipway.cli.compare.plan import Variant
from slipway.cli.talk.session import Session
from slipway.client import Answer, DaemonClient
from slipway.core.errors import NotFoundError, SlipwayError, UsageError
from slipway.core.i18n import tr


@dataclass(frozen=True, slots=True)
class Cell:
    """What one variant answered to one prompt.

    Attributes:
        same_as: number of an earlier variant with the same text (from 1); None when new.
        first_s: seconds until the first piece, the prompt having been read before.
        error: code and message when there is no answer.
    """

    prompt: int
    variant: int
    text: str = ""
    thinking: str = ""
    done_reason: str = ""
    same_as: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    completion_s: float = 0.0
    first_s: float | None = None
    error: dict[str, Any] | None = None

    @property
    def rate(self) -> float | None:
        """Tokens of the answer per second."""
        return self.completion_tokens / self.completion_s if self.completion_s > 0 else None


@dataclass
class Comparison:
    """Prompts, variants, and a cell for each pair that was asked."""

    prompts: list[str]
    variants: list[Variant]
    cells: list[Cell] = field(default_factory=list)
    complete: bool = False

    def row(self, prompt: int) -> list[Cell]:
        """The answers to a prompt, in the order of the variants."""
        return sorted((c for c in self.cells if c.prompt == prompt), key=lambda c: c.variant)

    def of_variant(self, variant: int) -> list[Cell]:
        """The answers of a variant that are no errors."""
        return [c for c in self.cells if c.variant == variant and c.error is None]

    def as_json(self) -> dict[str, Any]:
        """For `--json`; numbers of prompts and variants count from 0."""
        return {
            "complete": self.complete,
            "prompts": self.prompts,
            "variants": [{**asdict(v), "options": dict(v.options)} for v in self.variants],
            "answers": [
                {**asdict(cell), "completion_tokens_per_s": cell.rate}
                for prompt in range(len(self.prompts))
                for cell in self.row(prompt)
            ],
        }


def require_models(daemon: DaemonClient, variants: Sequence[Variant]) -> None:
    """Check that every model is there and can talk, before anything is asked.

    Raises:
        NotFoundError: one is not.
        UsageError: one only makes embeddings.
    """
    for model in dict.fromkeys(variant.model for variant in variants):
        session = Session(daemon, model)
        session.begin(model)
        if session.facts.get("capabilities") and not session.can("completion"):
            raise UsageError("compare.cannot_talk", tr("`{name}` cannot talk", name=model))


def ask_all(
    daemon: DaemonClient,
    comparison: Comparison,
    *,
    think: bool | str | None = None,
    on_cell: Callable[[Cell], None] = lambda _: None,
) -> None:
    """Fill the comparison, one answer after the other; Ctrl-C leaves what is there.

    Before the variants of a model and system text answer a prompt, that prompt is read once for
    all of them. Then each finds it in the cache, so that their times can be compared, and the same
    seed gives the same answer again: a prompt read in one piece and one read in two differ in the
    last bits of the numbers.

    Raises:
        UnreachableError: the daemon has gone.
    """
    numbered = list(enumerate(comparison.variants))
    for (model, system), group in groupby(numbered, key=lambda x: (x[1].model, x[1].system)):
        members = list(group)
        for prompt, text in enumerate(comparison.prompts):
            read = False
            for number, variant in members:
                session = Session(daemon, model, system=system, options=dict(variant.options))
                session.think = think
                try:
                    if not read:
                        _read(session, text)
                        read = True
                    cell = _cell(session.ask(text, lambda _: None))
                except NotFoundError:
                    raise  # removed meanwhile: nothing further can be asked
                except SlipwayError as error:
                    if error.code in ("client.unreachable", "client.connection_lost"):
                        raise
                    cell = {"error": error.as_json()}
                done = Cell(prompt, number, **cell)
                done = replace(done, same_as=_same_as(comparison, done))
                comparison.cells.append(done)
                on_cell(done)
    comparison.complete = True


def _read(session: Session, text: str) -> None:
    """Read the prompt, make one token, and forget it."""
    options = session.options
    session.options = {**options, "num_predict": 1}
    session.ask(text, lambda _: None)
    session.options = options
    session.turns.clear()


def _cell(answer: Answer) -> dict[str, Any]:
    timings = answer.timings
    assert timings is not None
    return {
        "text": answer.text,
        "thinking": answer.thinking,
        "done_reason": answer.done_reason,
        "prompt_tokens": timings.prompt_tokens,
        "completion_tokens": timings.completion_tokens,
        "completion_s": timings.completion_s,
        "first_s": answer.first_s,
    }


def _same_as(comparison: Comparison, cell: Cell) -> int | None:
    """The number of the first variant that gave this very text."""
    if cell.error is not None:
        return None
    rivals = (c for c in comparison.row(cell.prompt) if c.error is None and c.same_as is None)
    return next((c.variant + 1 for c in rivals if c.text == cell.text), None)
