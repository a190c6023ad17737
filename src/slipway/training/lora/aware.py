"""Quantisation-aware LoRA: the forward pass sees the weights that the quantiser will write.

y = Q(W + scale * B A) x, with Q the rounding of llama.cpp's Q4_0 or Q8_0 (blocks of 32 weights,
one fp16 scale each; the layouts: `slipway.export.lesson.blocks`, `ggml-quants.c`). Backward takes Q
for the identity, the straight-through estimator (Bengio et al. 2013, arXiv 1308.3432): the
gradients are those of W + scale * B A at the point Q(...), so A and B learn what makes the rounded
model right.

Q(...) changes only when A or B do, so it is made once for each step and kept beside the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from slipway.training.frozen import Product
from slipway.training.recompute import Remade

FakeType = Literal["q4_0", "q8_0"]

BLOCK = 32


def q4_0(blocks: Tensor) -> Tensor:
    """[n, 32] as Q4_0 gives them back: d = w* / -8 with w* the weight farthest from zero."""
    farthest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = farthest / -8
    codes = (blocks * _inverse(scale) + 8.5).clamp_(0, 15).floor_()
    return (codes - 8) * _half(scale)


def q8_0(blocks: Tensor) -> Tensor:
    """[n, 32] as Q8_0 gives them back: d = max|w| / 127, halves away from zero."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    codes = (scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled)).trunc_()
    return codes * _half(scale)


ROUNDINGS: dict[FakeType, Callable[[Tensor], Tensor]] = {"q4_0": q4_0, "q8_0": q8_0}


def rounded(weight: Tensor, kind: FakeType) -> Tensor:
    """A matrix [out, in] as the quantiser gives it back, fp32.

    Rows that do not divide into blocks stay as they are: the quantiser takes a larger type there.
    """
    if weight.shape[1] % BLOCK:
        return weight
    return ROUNDINGS[kind](weight.reshape(-1, BLOCK)).view_as(weight)


class RoundedSum:
    """Q(W + scale * B A) of one layer, remade when A or B have changed.

    Args:
        kind: the rounding.
    """

    def __init__(self, kind: FakeType) -> None:
        self.kind = kind
        self._made: tuple[Tensor, Tensor, Tensor] | None = None  # A, B, the rounded sum

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def weight(self, product: Product, a: Tensor, b: Tensor, scale: float) -> Tensor:
        """[out, in] in the base's number format.

        The sum is first rounded to that format, as merging does when it writes the model. Whether
        A and B are those of the last time is seen from their values: fused optimisers change a
        tensor without counting its version up.
        """
        made = self._made
        if made is None or not (torch.equal(a, made[0]) and torch.equal(b, made[1])):
            base = product.whole()
            total = ((b * scale) @ a).add_(base).to(base.dtype).float()
            made = (a.clone(), b.clone(), rounded(total, self.kind).to(product.dtype))
            self._made = made
        return made[2]


class AwareProduct(torch.autograd.Function):  # type: ignore[misc]
    """x [tokens, in] -> [tokens, out] by the rounded weight; gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        remade: Remade | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        """See the module."""
        recipe, kept = remade or (None, (x,))
        if recipe is not None:
            recipe.use()
        a_low, b_low = a.to(x.dtype), (b * scale).to(x.dtype)
        ctx.save_for_backward(a_low, b_low, weight, *kept)
        ctx.scale, ctx.recipe = scale, recipe
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """See the module."""
        a_low, b_low, weight, *kept = ctx.saved_tensors
        grad = grads[0]
        x = kept[0] if ctx.recipe is None else ctx.recipe.again(*kept).view(len(grad), -1)
        grad_a = ((grad @ b_low).t() @ x).float()
        grad_b = (grad.t() @ (x @ a_low.t())).float().mul_(ctx.scale)
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, grad_a, grad_b, None


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _half(scale: Tensor) -> Tensor:
    return scale.half().float()
