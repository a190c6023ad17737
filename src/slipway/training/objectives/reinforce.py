"""Stages rloo and grpo: the model answers, the answers are rewarded, the better ones reinforced.

Each step draws `num_generations` answers to each of its prompts and makes one update on them, so
the policy that is updated is the one that drew, and no importance weight is needed. With r the
rewards of a prompt's k answers, log p an answer's log-probability at the drawing temperature, and
kl = log p - log p_ref:

    rloo  R = r - beta kl over the answer's tokens;  A = R - mean of the other k - 1 answers' R
          loss = -A log p                                    (Ahmadian 2024, (7))
    grpo  A = (r - mean r) / (std r + 1e-4)
          loss = mean over its tokens of -A log p + beta (e^-kl + kl - 1)   (Shao 2024, (3), (4))

averaged over the answers. A has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.datasets import Encoded, lengths_of
from slipway.datasets.encoded import IGNORE
from slipway.training.batch import Batch, group_batches, losses
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, StepSums
from slipway.training.objectives.reference import ReferenceModel
from slipway.training.objectives.rewards import Answered, Rewards
from slipway.training.samples import generating
from slipway.training.sampling import Drawn, draw
from slipway.training.spec import RlSpec

_STEADY = 1e-4  # added to a standard deviation


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row taken apart.

    Attributes:
        ids: what is given.
        reference: the ids of the answer that the row has.
        tail: what the template writes after an answer.
    """

    id: str
    ids: list[int]
    reference: list[int]
    tail: list[int]


def prompt_of(row: Encoded) -> Prompt:
    """The prompt of a row whose last answer alone is learned."""
    learned = [at for at, label in enumerate(row.labels) if label != IGNORE]
    first, last = learned[0], learned[-1] + 1
    return Prompt(row.id, row.input_ids[:first], row.input_ids[first:last], row.input_ids[last:])


class Reinforce:
    """Mean loss over the answers to the prompts of a step.

    Args:
        baseline: which of the two stages it is.
        model: the reference; None where `beta` is 0.
        ends: tokens that end an answer.
        lean: see `to_batch`.
    """

    collective = False

    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Encoded],
        heldout: Sequence[Encoded],
        spec: RlSpec,
        *,
        stage: str,
        pack_tokens: int,
        lean: bool,
        tokenizer: Any,
        ends: frozenset[int],
        rewards: Rewards,
        model: ReferenceModel | None,
    ) -> None:
        if model is not None and not model.at_hand:
            raise UsageError(
                "train.rl_reference",
                tr("the answers' KL needs the model before training, which this method loses"),
                tr("train with `method: lora`, or set `rl.beta: 0`"),
            )
        self._tuned, self._rows, self._heldout, self._spec = tuned, rows, heldout, spec
        self._stage, self._pack_tokens, self._lean = stage, pack_tokens, lean
        self._tokenizer, self._ends, self._rewards = tokenizer, ends, rewards
        self._model = model
        self._device = next(tuned.model.parameters()).device
        self.lengths = lengths_of(rows)
        self.has_heldout = bool(len(heldout))

    def prepare(self, numbers: Iterable[int]) -> None:
        """Nothing: answers are drawn as the model is."""

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """See `Objective`: the mean over all answers."""
        prompts = [prompt_of(self._rows[i]) for i in numbers]
        k, spec = self._spec.num_generations, self._spec
        drawn = self._draw(prompts, k, spec.temperature, stop)
        rewards = torch.tensor(self._reward(prompts, drawn, stop)).view(-1, k)
        groups = [
            tuple(_document(prompt, answer) for answer in answers)
            for prompt, answers in zip(prompts, drawn, strict=True)
        ]
        tokens, loss_sum, drift = 0, 0.0, 0.0
        packs = group_batches(groups, self._pack_tokens, self._device, lean=self._lean)
        for members, batch in packs:
            stop()
            tokens += batch.tokens
            held = self._reference(batch)
            with self._tuned.computing():
                logps = self._logps(batch)
            loss, kl = self._loss(logps, held, batch, rewards[members])
            loss = loss / (k * len(numbers))
            loss.backward()
            loss_sum += float(loss.detach())
            drift += kl
        answers = [answer for some in drawn for answer in some]
        told = {
            "reward": float(rewards.mean()),
            "reward_std": float(rewards.std(1).mean()),
            "kl": drift / len(answers),
            "answer_tokens": sum(len(answer.tokens) for answer in answers) / len(answers),
            "ended": sum(answer.ended for answer in answers) / len(answers),
        }
        return StepSums(loss_sum, tokens, told, float(len(numbers)))

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """The likeliest answers to the held-out prompts; the loss is their mean reward, negated."""
        if not self.has_heldout:
            return None
        prompts = [prompt_of(row) for row in self._heldout]
        drawn = self._draw(prompts, 1, 0.0, stop)
        rewards = self._reward(prompts, drawn, stop)
        mean = sum(rewards) / len(rewards)
        answers = [answer for some in drawn for answer in some]
        told = {
            "reward": round(mean, 6),
            "answer_tokens": round(sum(len(a.tokens) for a in answers) / len(answers), 3),
            "ended": round(sum(a.ended for a in answers) / len(answers), 4),
            "rows": len(prompts),
        }
        return EvalResult(-mean, told, float(len(prompts)))

    def _draw(
        self, prompts: Sequence[Prompt], count: int, temperature: float, stop: Callable[[], None]
    ) -> list[list[Drawn]]:
        with generating(self._tuned.model), self._tuned.computing():
            return [
                draw(
                    self._tuned.model,
                    prompt.ids,
                    count,
                    ends=self._ends,
                    limit=self._spec.max_new_tokens,
                    temperature=temperature,
                    stop=stop,
                )
                for prompt in prompts
            ]

    def _reward(
        self, prompts: Sequence[Prompt], drawn: list[list[Drawn]], stop: Callable[[], None]
    ) -> list[float]:
        def text(ids: list[int]) -> str:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

        answered = [
            Answered(
                text(prompt.ids), text(answer.tokens), text(prompt.reference),
                _document(prompt, answer),
            )
            for prompt, answers in zip(prompts, drawn, strict=True)
            for answer in answers
        ]  # fmt: skip
        return self._rewards.of(answered, stop)

    def _logps(self, batch: Batch) -> Tensor:
        """[labels], at the temperature that the answers were drawn with."""
        sharp = 1 / self._spec.temperature
        return losses(self._tuned.model, batch, -1.0, even=False, sharpness=sharp)

    def _reference(self, batch: Batch) -> Tensor | None:
        if self._model is None:
            return None
        with self._model.entered(), torch.inference_mode():
            return self._logps(batch).clone()

    def _loss(
        self, logps: Tensor, held: Tensor | None, batch: Batch, rewards: Tensor
    ) -> tuple[Tensor, float]:
        """The sum of the answers' losses, and of their KL.

        Args:
            logps, held: [labels].
            rewards: [prompts, k].
        """
        beta, documents = self._spec.beta, len(batch.ends)
        kl = torch.zeros_like(logps) if held is None else logps - held.to(logps.device)
        total = _sums(kl.detach(), batch.documents, documents)
        rewards = rewards.to(logps.device)
        if self._stage == "rloo":
            worth = rewards - beta * total.view_as(rewards)
            good = leave_one_out(worth).view(-1)
            loss = -(good * _sums(logps, batch.documents, documents)).sum()
        else:
            good = standardised(rewards).view(-1)
            each = -good[batch.documents] * logps
            if held is not None and beta:
                each = each + beta * (torch.exp(-kl) + kl - 1)
            counts = torch.bincount(batch.documents, minlength=documents)
            loss = (_sums(each, batch.documents, documents) / counts).sum()
        return loss, float(total.sum())


def leave_one_out(worth: Tensor) -> Tensor:
    """Each answer's worth above the mean of the others to its prompt: [prompts, k]."""
    k = worth.shape[1]
    return (worth - worth.mean(1, keepdim=True)) * (k / (k - 1))


def standardised(rewards: Tensor) -> Tensor:
    """Each reward above its prompt's mean, in standard deviations: [prompts, k]."""
    above = rewards - rewards.mean(1, keepdim=True)
    return above / (rewards.std(1, keepdim=True) + _STEADY)


def _sums(values: Tensor, documents: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, documents, values)


def _document(prompt: Prompt, answer: Drawn) -> Encoded:
    """Prompt and answer; the answer's tokens are learned."""
    tail = prompt.tail if answer.ended else []
    labels = [IGNORE] * len(prompt.ids) + answer.tokens + [IGNORE] * len(tail)
    return Encoded(prompt.id, [*prompt.ids, *answer.tokens, *tail], labels)
