"""Norms and gated activations that backward computes anew instead of keeping.

A layer's largest activations are made from others, which are kept in any case, by a few cheap
passes: a norm's output from its input, silu(gate) * up from gate and up. `lighten` gives the norms
and MLPs of a model, whose own code it was checked to equal, functions that keep the inputs only.
What they make carries a `Recipe`, by which a LoRA layer that needs its input for the gradient of A
keeps what the recipe needs instead. The weights and their names are untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

_MARK = "slipway_recipe"
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class Recipe:
    """How to make a tensor again from others that are kept.

    Several layers may use one tensor (q, k and v): the first one that asks in backward makes it,
    and the last one lets it go. It holds none of the kept tensors itself: they are autograd's,
    which may give them away (activation checkpointing).

    Args:
        make: from the kept tensors to the tensor.
    """

    def __init__(self, make: Callable[..., Tensor]) -> None:
        self._make = make
        self._users = 0
        self._made: Tensor | None = None

    def use(self) -> None:
        """Count one more layer that will ask."""
        self._users += 1

    def again(self, *kept: Tensor) -> Tensor:
        """The tensor, made of what was kept; to be called once by each user."""
        made = self._make(*kept) if self._made is None else self._made
        self._users -= 1
        self._made = made if self._users > 0 else None
        return made


Remade = tuple[Recipe, tuple[Tensor, ...]]


def recipe_of(tensor: Tensor) -> Remade | None:
    """How a tensor can be made again, and what must be kept for it; None if that is not known."""
    found: Remade | None = getattr(tensor, _MARK, None)
    return found


def _with_recipe(tensor: Tensor, make: Callable[..., Tensor], *kept: Tensor) -> Tensor:
    if tensor.requires_grad:
        setattr(tensor, _MARK, (Recipe(make), tuple(one.detach() for one in kept)))
    return tensor


class _RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """weight * (x / rms(x)), the quotient in fp32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.mark_non_differentiable(inverse)
        ctx.set_materialize_grads(False)
        return _scaled(x, weight, inverse), inverse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        unit = x.float() * inverse
        grad = grads[0].float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit).flatten(0, -2).sum(0).to(weight.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            slope = grad * weight.float()
            along = (slope * unit).mean(-1, keepdim=True)
            grad_x = slope.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype)
        return grad_x, grad_weight, None


def _scaled(x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    return weight * (x.float() * inverse).to(x.dtype)


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return grad_gate, silu(gate).mul_(grads[0])


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)


def _norm_forward(module: Any, hidden_states: Tensor) -> Tensor:
    weight = module.weight
    out, inverse = _RmsNorm.apply(hidden_states, weight, _eps(module))
    if not weight.requires_grad:
        return _with_recipe(out, _scaled, hidden_states, weight, inverse)
    return out  # a trained weight is another one by the time of a second look


def _mlp_forward(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    inner = _with_recipe(_Gated.apply(gate, up), _gated, gate, up)
    found: Tensor = module.down_proj(inner)
    return found


def _eps(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        if isinstance(value := getattr(module, name, None), float):
            return value
    return None


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith("RMSNorm")
    return named and isinstance(weight, Tensor) and weight.ndim == 1 and _eps(module) is not None


def _is_mlp(module: nn.Module) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(module, "act_fn")


def lighten(model: nn.Module) -> int:
    """Let the norms and MLPs of a model keep less for backward; returns how many do.

    One whose own code gives anything else for random numbers is left as it is.
    """
    changed = 0
    state = torch.get_rng_state()
    for module in model.modules():
        if _is_norm(module):
            changed += _replace(module, _norm_forward, module.weight, module.weight.dtype)
        elif _is_mlp(module):
            gate = module.gate_proj  # a packed one says in which format it computes
            dtype = getattr(gate, "dtype", gate.weight.dtype)
            changed += _replace(module, _mlp_forward, gate.weight, dtype, gate.in_features)
    torch.set_rng_state(state)
    return changed


def _replace(
    module: Any,
    forward: Callable[..., Tensor],
    weight: Tensor,
    dtype: torch.dtype,
    width: int | None = None,
) -> bool:
    if weight.device.type == "meta" or dtype not in _TOLERANCE:
        return False
    x = torch.randn(3, width or weight.shape[-1]).to(weight.device, dtype)
    with torch.no_grad():
        own, ours = module(x), forward(module, x)
    limit = _TOLERANCE[dtype] * max(float(own.abs().max()), 1e-6)
    if own.shape != ours.shape or not float((own - ours).abs().max()) <= limit:
        return False
    module.forward = MethodType(forward, module)
    return True
