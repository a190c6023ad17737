"""Which option a model takes, and how often it is right."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from slipway.core.errors import ToolError
from slipway.core.i18n import tr
from slipway.evaluation.choices import LETTERS, Choice
from slipway.evaluation.endpoint import Endpoint, RowRefusedError, each
from slipway.evaluation.metrics import ACCURACY, Measured, mean_of

if TYPE_CHECKING:
    from slipway.evaluation.local import LocalModel

How = Literal["logits", "logprobs", "text"]
_LOCAL_BATCH = 32
_TOP = 200  # tokens of llama-server's list in which the four letters must be found
_LETTER = re.compile(r"(?<![A-Za-z])([A-D])(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Given:
    """What a model took.

    Attributes:
        given: the letter; "" when it named none.
        answer: the right one.
        scores: log-probability of each letter, where they are known.
        how: from the model's own logits, from a server's log-probabilities, or read from its text.
    """

    id: str
    given: str
    answer: str
    how: How
    scores: tuple[float, ...] = ()
    error: str = ""

    def line(self) -> str:
        """The line of the file."""
        fields: dict[str, Any] = {
            "id": self.id,
            "given": self.given,
            "answer": self.answer,
            "how": self.how,
        }
        if self.scores:
            fields["scores"] = [round(s, 5) if math.isfinite(s) else None for s in self.scores]
        if self.error:
            fields["error"] = self.error
        return json.dumps(fields, ensure_ascii=False) + "\n"


def choose_locally(
    model: LocalModel, choices: Sequence[Choice], keep: Callable[[Given], None]
) -> None:
    """Take the likeliest letter by the model's own logits; ties go to the first."""
    for start in range(0, len(choices), _LOCAL_BATCH):
        batch = choices[start : start + _LOCAL_BATCH]
        found = model.option_scores([c.prompt for c in batch], [c.options for c in batch])
        for choice, scores in zip(batch, found, strict=True):
            keep(Given(choice.id, _likeliest(scores), choice.answer, "logits", tuple(scores)))


def choose_by_llama(
    server: Endpoint, choices: Sequence[Choice], keep: Callable[[Given], None], *, at_once: int
) -> None:
    """Take the likeliest letter by llama-server's log-probabilities of the next token.

    Raises:
        ToolError: the server gives no log-probabilities.
    """

    def choose(choice: Choice) -> None:
        body = {
            "prompt": choice.prompt,
            "n_predict": 1,
            "n_probs": _TOP,
            "temperature": 0,
            "cache_prompt": True,
        }
        try:
            answer = server.post("/completion", body)
        except RowRefusedError as error:
            keep(Given(choice.id, "", choice.answer, "logprobs", error=error.message_en))
            return
        scores = _letter_scores(answer, choice)
        keep(Given(choice.id, _likeliest(scores), choice.answer, "logprobs", tuple(scores)))

    each(choices, choose, at_once=at_once)


def _letter_scores(answer: dict[str, Any], choice: Choice) -> list[float]:
    try:
        top = answer["completion_probabilities"][0]["top_logprobs"]
        found: dict[str, float] = {}
        for token in top:  # best first: " A" and "A" are the same letter, the likelier counts
            found.setdefault(str(token["token"]).strip(), float(token["logprob"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ToolError(
            "eval.no_logprobs", tr("the engine gives no log-probabilities for `{id}`", id=choice.id)
        ) from error
    return [found.get(letter, -math.inf) for letter in LETTERS]


def choose_by_text(
    endpoint: Endpoint,
    name: str,
    choices: Sequence[Choice],
    keep: Callable[[Given], None],
    *,
    at_once: int,
) -> None:
    """Ask a server in words and read the first letter that stands alone in its answer."""

    def choose(choice: Choice) -> None:
        messages = [{"role": "user", "content": choice.prompt}]
        try:
            reply = endpoint.chat(name, messages, temperature=0, max_tokens=16)
        except RowRefusedError as error:
            keep(Given(choice.id, "", choice.answer, "text", error=error.message_en))
            return
        letter = _LETTER.search(reply.text)
        keep(Given(choice.id, letter[1] if letter else "", choice.answer, "text"))

    each(choices, choose, at_once=at_once)


def _likeliest(scores: Sequence[float]) -> str:
    best = max(range(len(scores)), key=lambda at: scores[at])
    return LETTERS[best] if math.isfinite(scores[best]) else ""


def accuracy(choices: Sequence[Choice], given: Sequence[dict[str, Any]]) -> Measured:
    """0 or 100 for each question, in order."""
    right = [100.0 * (g["given"] == c.answer) for c, g in zip(choices, given, strict=True)]
    return mean_of(ACCURACY, right)


def by_subject(choices: Sequence[Choice], given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies in percent: all questions, each category, each subject; and who named none.

    A category is the mean over its questions, as in the sets' own papers.
    """
    groups: dict[str, dict[str, list[bool]]] = {"categories": {}, "subjects": {}}
    for choice, answer in zip(choices, given, strict=True):
        right = answer["given"] == choice.answer
        groups["categories"].setdefault(choice.category, []).append(right)
        groups["subjects"].setdefault(choice.subject, []).append(right)
    found: dict[str, Any] = {
        kind: {
            name: {"accuracy": round(100 * sum(rights) / len(rights), 2), "questions": len(rights)}
            for name, rights in sorted(group.items())
        }
        for kind, group in groups.items()
    }
    subjects = [row["accuracy"] for row in found["subjects"].values()]
    found["subject_mean"] = round(sum(subjects) / max(1, len(subjects)), 2)
    found["no_answer"] = [g["id"] for g in given if not g["given"]]
    found["taken"] = dict(sorted(Counter(g["given"] or "-" for g in given).items()))
    found["how"] = sorted({g["how"] for g in given})
    return found
