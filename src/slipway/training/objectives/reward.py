"""Stage rm: a number for each answer, higher for the chosen one of each pair.

Bradley and Terry's model: -log s(score of the chosen - score of the rejected), where the score is
read from the hidden state of a document's last token (Ouyang 2022, (1)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from slipway.datasets import Encoded, lengths_of
from slipway.training.batch import Batch, group_batches, hidden_states
from slipway.training.methods import ScoredTuned, Tuned
from slipway.training.objectives.base import EvalResult, StepSums
from slipway.training.objectives.reference import reading
from slipway.training.objectives.units import unit_lengths

_AT_ONCE = 128  # pairs of an eval that are read and packed together


def scores(model: object, batch: Batch, weight: Tensor) -> Tensor:
    """The score of each document: [documents], fp32.

    Args:
        batch: not a lean one, which ends with the last label.
        weight: [1, width], the head.
    """
    last = hidden_states(model, batch).index_select(0, batch.ends)
    return (last.float() * weight[0]).sum(-1)  # (no product that autocast would round)


class Reward:
    """Mean loss over the pairs of a step; row 2i is the chosen answer of pair i."""

    collective = False

    def __init__(
        self, tuned: Tuned, rows: Sequence[Encoded], heldout: Sequence[Encoded], pack_tokens: int
    ) -> None:
        assert isinstance(tuned, ScoredTuned)
        self._tuned, self._rows, self._heldout = tuned, rows, heldout
        self._pack_tokens = pack_tokens
        self._device = next(tuned.model.parameters()).device
        self.lengths = unit_lengths("rm", lengths_of(rows))
        self.has_heldout = bool(len(heldout))

    def prepare(self, numbers: Iterable[int]) -> None:
        """Nothing: there is no reference."""

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """See `Objective`: the mean over the pairs."""
        pairs = [(self._rows[2 * i], self._rows[2 * i + 1]) for i in numbers]
        tally = torch.zeros(4, dtype=torch.float64)
        tokens = 0
        for _, batch in group_batches(pairs, self._pack_tokens, self._device):
            stop()
            tokens += batch.tokens
            loss, sums = self._judge(batch)
            (loss / len(numbers)).backward()
            tally += sums
        loss_sum, told = _told(tally / len(numbers))
        return StepSums(loss_sum, tokens, told, float(len(numbers)))

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """See `Objective`."""
        if not self.has_heldout:
            return None
        count = len(self._heldout) // 2
        tally = torch.zeros(4, dtype=torch.float64)
        with reading(self._tuned):
            for start in range(0, count, _AT_ONCE):
                part = range(start, min(count, start + _AT_ONCE))
                pairs = [(self._heldout[2 * i], self._heldout[2 * i + 1]) for i in part]
                for _, batch in group_batches(pairs, self._pack_tokens, self._device):
                    stop()
                    tally += self._judge(batch)[1]
        loss, told = _told(tally / count)
        rounded = {name: round(value, 6) for name, value in told.items()}
        return EvalResult(loss, {**rounded, "pairs": count}, float(count))

    def _judge(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the pairs' losses, and sums of (loss, right, chosen, rejected)."""
        with self._tuned.computing():
            both = scores(self._tuned.model, batch, self._tuned.weight).view(-1, 2)
        loss = -logsigmoid(both[:, 0] - both[:, 1]).sum()
        found = both.detach().double()
        right = (found[:, 0] > found[:, 1]).double().sum()
        sums = torch.stack([loss.detach().double(), right, found[:, 0].sum(), found[:, 1].sum()])
        return loss, sums.cpu()


def _told(means: Tensor) -> tuple[float, dict[str, float]]:
    loss, right, chosen, rejected = means.tolist()
    return loss, {
        "accuracy": right,
        "reward_chosen": chosen,
        "reward_rejected": rejected,
        "margin": chosen - rejected,
    }
