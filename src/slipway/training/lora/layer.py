"""LoRA on frozen linear layers: y = W x + scale * B (A x), with A and B trained in fp32.

The method is Hu et al. 2021, "LoRA" (arXiv 2106.09685): A is drawn as `nn.Linear` draws its weight,
B is zero. Variants: rsLoRA (Kalajdzievski 2023, arXiv 2312.03732) scales by alpha / sqrt(rank);
DoRA (Liu et al. 2024, arXiv 2402.09353) trains the length of each row of the sum apart; PiSSA
(Meng et al. 2024, arXiv 2404.02948) begins from the largest singular values of W.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slipway.training.frozen import FrozenRows, Product, product_of
from slipway.training.lora.aware import AwareProduct, RoundedSum
from slipway.training.recompute import Remade, recipe_of


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Size and variant of one layer's addition.

    Attributes:
        alpha: the addition is scaled by alpha / rank, or by alpha / sqrt(rank) with `rslora`.
        dropout: on the addition's input, while training.
        dora: each row of the sum has a trained length.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class AdapterLayer(nn.Module):  # type: ignore[misc]
    """A frozen `nn.Linear` and what is trained beside it.

    Attributes:
        off: the layer computes as if nothing were trained.
    """

    base: nn.Linear
    off: bool

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.off = base, False
        self._frozen: Product | None = None  # made at first use: packing costs memory

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold, by the end of its name in a PEFT file."""

    @abstractmethod
    def saved(self) -> dict[str, Tensor]:
        """What a PEFT file holds; it may share memory with the layer."""

    @abstractmethod
    def merged(self) -> Tensor:
        """The weight [out, in] of the plain layer that computes the same, fp32."""

    def product(self) -> Product:
        """The base's products, without its bias."""
        if self._frozen is None:
            self._frozen = product_of(self.base)
        return self._frozen

    def plain(self, rows: Tensor) -> Tensor:
        """What the base alone computes of [rows, in]."""
        return FrozenRows.apply(rows, self.product(), self.base.bias, None)


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """x [tokens, in] -> [tokens, out], as one step of autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        remade: Remade | None,
        base: Product,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        # scale goes into B: it is the smallest tensor here
        a_low, b_low = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = x @ a_low.t()
        y = base.forward(x, bias, inner @ b_low.t())
        recipe, kept = remade or (None, (x,))
        if recipe is not None:
            recipe.use()
        ctx.save_for_backward(a_low, b_low, inner, *kept)
        ctx.base, ctx.scale, ctx.recipe = base, scale, recipe
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a_low, b_low, inner, *kept = ctx.saved_tensors
        x = kept[0] if ctx.recipe is None else ctx.recipe.again(*kept).view(len(inner), -1)
        grad = grads[0]
        grad_inner = grad @ b_low
        grad_a = (grad_inner.t() @ x).float()
        grad_b = (grad.t() @ inner).float().mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.base.backward(grad, grad_inner @ a_low)
        return grad_x, None, None, None, grad_a, grad_b, None


class LoraLinear(AdapterLayer):
    """A frozen `nn.Linear` with a trained low-rank addition.

    With PiSSA, what A and B were at the start is subtracted: y = W x + scale (B A - B0 A0) x. The
    base is not touched, and the addition is that of a plain LoRA of twice the rank.
    """

    def __init__(self, base: nn.Linear, shape: LoraShape) -> None:
        super().__init__(base)
        self.shape, self.scale = shape, shape.scale
        device = base.weight.device
        self.lora_a = nn.Parameter(torch.empty(shape.rank, base.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, shape.rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.start_a: Tensor | None
        self.start_b: Tensor | None
        self.register_buffer("start_a", None)
        self.register_buffer("start_b", None)
        self.magnitude: nn.Parameter | None = None
        self.rounding: RoundedSum | None = None  # set by quantisation-aware training
        self._lengths: Tensor | None = None  # squared, of the base's rows
        if shape.dora:
            self.magnitude = nn.Parameter(self._base_lengths().sqrt())

    def begin_from_singular(self, iterations: int) -> None:
        """PiSSA: A and B become the largest singular values and vectors of W.

        Args:
            iterations: of the randomised decomposition; -1 for the exact one.
        """
        weight, rank = self.product().whole().float(), self.shape.rank
        if weight.is_meta:
            left, values, right = torch.empty(0), torch.empty(0), torch.empty(0)
        elif iterations < 0 or rank >= min(weight.shape):
            u, s, vh = torch.linalg.svd(weight, full_matrices=False)
            left, values, right = u[:, :rank], s[:rank], vh[:rank]
        else:
            u, values, v = torch.svd_lowrank(weight, q=rank, niter=iterations)
            left, right = u, v.t()
        with torch.no_grad():
            if not weight.is_meta:
                root = (values / self.scale).sqrt()
                count = len(root)  # fewer than the rank in a layer that is smaller
                self.lora_a.zero_()[:count] = root[:, None] * right
                self.lora_b[:, :count] = left * root
            self.start_a = self.lora_a.detach().clone()
            self.start_b = self.lora_b.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        y = self.plain(rows) if self.off else self._adapted(rows, recipe_of(x))
        return y.view(*x.shape[:-1], y.shape[-1])

    def _adapted(self, rows: Tensor, remade: Remade | None) -> Tensor:
        a, b = self.factors()
        if self.rounding is not None:
            weight = self.rounding.weight(self.product(), a, b, self.scale)
            return AwareProduct.apply(rows, remade, weight, self.base.bias, a, b, self.scale)
        bias = None if self.magnitude is not None else self.base.bias
        if self.shape.dropout and self.training:
            dropped = nn.functional.dropout(rows, self.shape.dropout)
            plus = (dropped @ a.to(rows.dtype).t()) @ (b * self.scale).to(rows.dtype).t()
            y = FrozenRows.apply(rows, self.product(), bias, plus)
        else:
            y = _LoraProduct.apply(rows, remade, self.product(), bias, a, b, self.scale)
        if self.magnitude is not None:
            y = y * (self.magnitude / self._sum_lengths(a, b)).to(y.dtype)
            y = y if self.base.bias is None else y + self.base.bias
        return y

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of which `scale * B A` is added, fp32."""
        if self.start_a is None or self.start_b is None:
            return self.lora_a, self.lora_b
        return torch.cat([self.lora_a, self.start_a]), torch.cat([self.lora_b, -self.start_b], 1)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _sum_lengths(self, a: Tensor, b: Tensor) -> Tensor:
        """Length of each row of W + scale B A: [out]; a constant for backward, as in DoRA 4.3.

        The sum itself is never made: |w + s b A|^2 = |w|^2 + 2 s b (A w) + s^2 b (A A^T) b^T.
        """
        scaled = b * self.scale
        product = self.product()
        across = product.forward(a.to(product.dtype), None).float().t()  # W A^T
        squares = self._base_lengths() + (scaled * (2 * across + scaled @ (a @ a.t()))).sum(1)
        return squares.clamp_min(torch.finfo(torch.float32).tiny).sqrt()

    def _base_lengths(self) -> Tensor:
        if self._lengths is None:
            weight = self.product().whole()
            self._lengths = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
        return self._lengths

    def addition(self) -> Tensor:
        """scale * B A [out, in], fp32."""
        a, b = (tensor.detach() for tensor in self.factors())
        return (b * self.scale) @ a

    def merged(self) -> Tensor:
        """See `AdapterLayer`."""
        weight = self.addition().add_(self.product().whole())
        if self.magnitude is not None:
            weight *= (self.magnitude.detach() / torch.linalg.vector_norm(weight, dim=1))[:, None]
        return weight

    def tensors(self) -> dict[str, Tensor]:
        """See `AdapterLayer`."""
        found = {"lora_A.weight": self.lora_a, "lora_B.weight": self.lora_b}
        if self.magnitude is not None:
            found["lora_magnitude_vector"] = self.magnitude
        if self.start_a is not None and self.start_b is not None:
            found |= {"start_A.weight": self.start_a, "start_B.weight": self.start_b}
        return found

    def saved(self) -> dict[str, Tensor]:
        """See `AdapterLayer`; PiSSA's is a plain LoRA of twice the rank."""
        a, b = self.factors()
        found = {"lora_A.weight": a.detach(), "lora_B.weight": b.detach()}
        if self.magnitude is not None:
            found["lora_magnitude_vector"] = self.magnitude.detach()
        return found

    def saved_shape(self) -> LoraShape:
        """The shape of what `saved` gives, with the same scale."""
        rank, alpha = self.shape.rank, self.shape.alpha
        if self.start_a is not None:
            alpha *= math.sqrt(2) if self.shape.rslora else 2
            rank *= 2
        return LoraShape(rank, alpha, self.shape.dropout, self.shape.rslora, self.shape.dora)
