"""Cross-entropy of the next token, computed for label rows only and in chunks.

With a vocabulary of 50-150 thousand the logits are the largest tensor of training. Prompt rows
carry no label, so their logits are never made; the rest is made `CHUNK` rows at a time, and the
gradient with respect to the hidden rows is made in the same pass, so that no chunk is kept.

A trained head gets its gradient in chunks too. Where every label counts the same (`even`) it is
made in the same pass; where each has a weight of its own, known only in backward, the chunks are
computed once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
IGNORE = -100
_TINY = 1e-38  # the smallest probability whose logarithm is taken


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """Losses of `rows` [labels, width] against `targets` [labels] under an output head."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        factor: float,
        even: bool,
    ) -> Tensor:
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        each = []
        slopes = torch.empty_like(rows) if wants_rows else None
        head = _HeadSlopes(weight, bias, wants_weight, wants_bias) if even else None
        learns = any(ctx.needs_input_grad[:3])
        chunk = CHUNK if learns else CHUNK // 2  # whose logarithms are fp32
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            logits = torch.nn.functional.linear(rows[part], weight, bias)
            if not learns:
                logs = torch.log_softmax(logits, -1, dtype=torch.float32)
                each.append(-logs.gather(1, targets[part, None])[:, 0])
                continue
            right, errors = _errors(logits, targets[part])
            each.append(-right.clamp_min(_TINY).log())
            if slopes is not None:
                torch.mm(errors, weight, out=slopes[part])
            if head is not None:
                head.add(errors, rows[part])
        ctx.factor, ctx.head = factor, head
        again = (wants_weight or wants_bias) and not even
        ctx.save_for_backward(slopes, *((rows, weight, bias, targets) if again else ()))
        return torch.cat(each) * factor if each else rows.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, *again = ctx.saved_tensors
        wanted = grads[0] * ctx.factor
        scaled = None if slopes is None else slopes * wanted[:, None].to(slopes.dtype)
        head = ctx.head
        if head is not None:
            head.scale(wanted[:1])
        elif again:
            rows, weight, bias, targets = again
            head = _HeadSlopes(weight, bias, *ctx.needs_input_grad[1:3])
            for start in range(0, len(rows), CHUNK):
                part = slice(start, start + CHUNK)
                logits = torch.nn.functional.linear(rows[part], weight, bias)
                _, errors = _errors(logits, targets[part])
                head.add(errors * wanted[part, None].to(errors.dtype), rows[part])
        found = (head.weight, head.bias) if head is not None else (None, None)
        return scaled, *found, None, None, None


def _errors(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The right token's probability (fp32), and the slope of the loss by each logit.

    The slopes are in the logits' own format: they go into a product of that format anyway, and a
    loss read from a bf16 probability is off by at most 2^-8, either way.
    """
    chances = torch.softmax(logits, -1)
    # (indexing, because scatter_ copies the whole tensor)
    place = (torch.arange(len(logits), device=logits.device), targets)
    right = chances[place].float()
    chances[place] = (right - 1).to(chances.dtype)
    return right, chances


class _HeadSlopes:
    """The gradient of a trained head, summed over chunks in fp32."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, wants_weight: bool, wants_bias: bool
    ) -> None:
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        self.bias = (
            torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        )

    def add(self, errors: Tensor, rows: Tensor) -> None:
        if self.weight is not None:
            if errors.dtype == torch.float32:
                self.weight.addmm_(errors.t(), rows)
            else:
                self.weight += errors.t() @ rows
        if self.bias is not None:
            self.bias += errors.sum(0, dtype=torch.float32)

    def scale(self, factor: Tensor) -> None:
        for tensor in (self.weight, self.bias):
            if tensor is not None:
                tensor.mul_(factor if factor.numel() else 0.0)


def head_losses(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    factor: float = 1.0,
    *,
    even: bool = True,
) -> Tensor:
    """The loss of each row times `factor`, fp32.

    Args:
        rows: [labels, width], the hidden states that predict a label.
        weight: [vocabulary, width], the output head; it gets a gradient if it is trained.
        targets: [labels], the next tokens.
        even: backward comes from the plain sum of these losses. A trained head is then given its
            gradient without computing the logits again; with other weights it would be wrong.
    """
    kind = rows.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        rows, weight = rows.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    elif rows.dtype != weight.dtype:  # a head trained in fp32 on a base in bf16
        weight = weight.to(rows.dtype)
        bias = None if bias is None else bias.to(rows.dtype)
    with torch.autocast(kind, enabled=False):
        losses = _HeadLoss.apply(rows, weight, bias, targets, factor, even)
    assert isinstance(losses, Tensor)
    return losses
