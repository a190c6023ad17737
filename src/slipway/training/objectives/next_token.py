"""Stages pt and sft: the next token of every label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from slipway.datasets import Encoded, lengths_of
from slipway.training.batch import batches, losses
from slipway.training.evaluate import rows_loss
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, InStep, StepSums


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
        in_step: InStep | None = None,
    ) -> None:
        self._in_step = in_step
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
        packs = batches(rows, self._pack_tokens, self._device, lean=self._lean) if rows else []
        labels = sum(len(batch.targets) for _, batch in packs)
        count, idle = (labels, 0) if self._in_step is None else self._with_others(labels, packs)
        total = torch.zeros((), device=self._device)
        for _, batch in packs:
            stop()
            with self._tuned.computing():
                loss = losses(self._tuned.model, batch, 1.0 / count).sum()
            loss.backward()
            total += loss.detach()
        for _ in range(idle):  # others have more packs, for which they need this process's part
            _, batch = batches([self._rows[0]], self._pack_tokens, self._device)[0]
            with self._tuned.computing():
                loss = losses(self._tuned.model, batch, 0.0).sum()
            loss.backward()
        mean = float(total) * count / max(1, labels)
        return StepSums(mean, sum(batch.tokens for _, batch in packs), weight=float(labels))

    def _with_others(self, labels: int, packs: Sequence[object]) -> tuple[int, int]:
        """Label tokens of all processes, and the packs that another one has more than this."""
        assert self._in_step is not None
        (count,) = self._in_step.sum(labels)
        return int(count), self._in_step.most(len(packs)) - len(packs)

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
