"""Stages pt and sft: the next token of every label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from slipway.datasets import Encoded, lengths_of
from slipway.training.batch import batches, losses
from slipway.training.evaluate import rows_loss
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, StepSums


class NextToken:
    """Mean cross-entropy over the label tokens of a step.

    Args:
        lean: see `to_batch`; not where every document shall be disturbed on its own (dropout).
    """

    collective = False

    def __init__(
        self,
        tuned: Tuned,
        rows: Sequence[Encoded],
        heldout: Sequence[Encoded],
        pack_tokens: int,
        lean: bool = True,
    ) -> None:
        self._tuned, self._rows, self._heldout = tuned, rows, heldout
        self._pack_tokens, self._lean = pack_tokens, lean
        self._device = next(tuned.model.parameters()).device
        self.lengths = lengths_of(rows)
        self.has_heldout = bool(len(heldout))

    def prepare(self, numbers: Iterable[int]) -> None:
        """Nothing: the labels are all there is to know."""

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """See `Objective`: the sum over all labels of the step divided by their number."""
        rows = [self._rows[i] for i in numbers]
        packs = batches(rows, self._pack_tokens, self._device, lean=self._lean)
        labels = sum(len(batch.targets) for _, batch in packs)
        total = torch.zeros((), device=self._device)
        for _, batch in packs:
            stop()
            with self._tuned.computing():
                loss = losses(self._tuned.model, batch, 1.0 / labels).sum()
            loss.backward()
            total += loss.detach()
        return StepSums(float(total), sum(batch.tokens for _, batch in packs), weight=float(labels))

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """See `Objective`."""
        if not self.has_heldout:
            return None
        with self._tuned.computing():
            result = rows_loss(self._tuned.model, self._heldout, on_pack=stop)
        extra = {
            "perplexity": round(result.perplexity, 4),
            "rows": result.rows,
            "label_tokens": result.label_tokens,
        }
        return EvalResult(result.loss, extra, float(result.label_tokens))
