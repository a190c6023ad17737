"""Cross-entropy of the next token, computed for label rows only and in chunks.

With a vocabulary of 50-150 thousand the logits are the largest tensor of training. Prompt rows
carry no label, so their logits are never made; the rest is made `CHUNK` rows at a time, and the
gradient with respect to the hidden rows is made in the same pass, so that no chunk is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
IGNORE = -100
_TINY = 1e-38  # the smallest probability whose logarithm is taken


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Losses of `rows` [labels, width] against `targets` [labels] under a frozen head."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, factor: float
    ) -> Tensor:
        each = []
        slopes = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            logits = torch.nn.functional.linear(rows[part], weight, bias)
            if slopes is None:
                logs = torch.log_softmax(logits, -1, dtype=torch.float32)
                each.append(-logs.gather(1, targets[part, None])[:, 0])
                continue
            # in the logits' own format: the gradient goes into a product of that format anyway,
            # and a loss read from a bf16 probability is off by at most 2^-8, either way
            chances = torch.softmax(logits, -1)
            # (indexing, because scatter_ copies the whole tensor)
            place = (torch.arange(len(logits), device=logits.device), targets[part])
            right = chances[place].float()
            each.append(-right.clamp_min(_TINY).log())
            chances[place] = (right - 1).to(chances.dtype)
            torch.mm(chances, weight, out=slopes[part])
        if slopes is not None:
            ctx.save_for_backward(slopes)
        ctx.factor = factor
        return torch.cat(each) * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        scaled = slopes * (grads[0] * ctx.factor)[:, None].to(slopes.dtype)
        return scaled, None, None, None, None


def head_losses(
    rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, factor: float = 1.0
) -> Tensor:
    """The loss of each row times `factor`, fp32.

    Args:
        rows: [labels, width], the hidden states that predict a label.
        weight: [vocabulary, width], the frozen output head; no gradient flows into it.
        targets: [labels], the next tokens.
    """
    losses = _HeadLoss.apply(rows, weight, bias, targets, factor)
    assert isinstance(losses, Tensor)
    return losses
