"""A frozen base with 4 or 8 bits for each weight of its linear layers (QLoRA).

Dettmers et al. 2023, "QLoRA" (arXiv 2305.14314) for 4 bits, and 2022, "LLM.int8()" (arXiv
2208.07339) for the 8-bit rows; both numbers are made by bitsandbytes. A layer's weight is unpacked
for each product, forward and backward, and dropped at once: no copy in full precision is kept.
Activations are never quantised. The output head, embeddings and norms stay as they are.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from slipway.core.errors import missing_extra
from slipway.training.frozen import FrozenRows, plain_backward, plain_forward
from slipway.training.memory import give_back
from slipway.training.spec import QuantSpec

_PROBE = (512, 1024)
_BLOCK = 64  # weights of one 4-bit scale
_NESTED = 256  # scales of one scale of scales


def bitsandbytes() -> Any:
    """The package.

    Raises:
        ResourceError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "qlora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only
        import bitsandbytes

    return bitsandbytes


class QuantProduct:
    """Products with a packed weight, as `frozen.FrozenProduct` has them with a plain one."""

    def __init__(self, layer: QuantLinear) -> None:
        self._layer, self.dtype = layer, layer.dtype

    def whole(self) -> Tensor:
        """The weight [out, in], unpacked anew."""
        return self._layer.unpacked()

    def forward(self, x: Tensor, bias: Tensor | None, plus: Tensor | None = None) -> Tensor:
        """See `frozen.Product`."""
        return plain_forward(x, self.whole().to(x.dtype), bias, plus)

    def backward(self, grad: Tensor, plus: Tensor | None = None) -> Tensor:
        """See `frozen.Product`."""
        return plain_backward(grad, self.whole().to(grad.dtype), plus)


class QuantLinear(nn.Linear):  # type: ignore[misc]
    """A frozen linear layer whose weight is packed.

    Attributes:
        dtype: what its weight is unpacked to.
    """

    def __init__(self, like: nn.Linear, packed: Tensor, scales: Any, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = like.in_features, like.out_features
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.weight.slipway_numbers = self.in_features * self.out_features
        self.bias = like.bias
        self.dtype, self._scales = dtype, scales
        # (buffers only so that their bytes are counted)
        parts = (scales, getattr(scales, "absmax", None), getattr(scales, "state2", None))
        for number, part in enumerate((*parts[:2], getattr(parts[2], "absmax", None))):
            if isinstance(part, Tensor):
                self.register_buffer(f"scales_{number}", part, persistent=False)

    def product(self) -> QuantProduct:
        """Its products both ways."""
        return QuantProduct(self)

    def unpacked(self) -> Tensor:
        """The weight [out, in] in `dtype`."""
        if self.weight.is_meta:
            shape = (self.out_features, self.in_features)
            return torch.empty(shape, dtype=self.dtype, device="meta")
        data = self.weight.data
        if isinstance(self._scales, Tensor):  # int8, one scale for each row, which is its largest
            return data.to(self.dtype) * (self._scales / 127)[:, None].to(self.dtype)
        import bitsandbytes.functional as packing

        weight: Tensor = packing.dequantize_4bit(data, self._scales)
        return weight.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in x's dtype."""
        rows = FrozenRows.apply(x.reshape(-1, x.shape[-1]), self.product(), self.bias, None)
        return rows.view(*x.shape[:-1], self.out_features)


def held_as(quant: QuantSpec) -> str:
    """How the base is held, in one phrase for a manifest."""
    if quant.bits == 8:
        return "8 bits (int8 by row)"
    return f"4 bits ({quant.type}{', double' if quant.double else ''})"


def loading_config(quant: QuantSpec, dtype: torch.dtype) -> Any:
    """What transformers needs to pack each weight as soon as it is read.

    Raises:
        ResourceError: bitsandbytes is not installed.
    """
    bitsandbytes()
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quant.bits == 4,
        load_in_8bit=quant.bits == 8,
        bnb_4bit_quant_type=quant.type,
        bnb_4bit_use_double_quant=quant.double,
        bnb_4bit_compute_dtype=dtype,
    )


def take_over(model: nn.Module, dtype: torch.dtype) -> None:
    """Put our layers in the place of those that transformers made from `loading_config`."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            weight = module.weight
            _put(model, name, QuantLinear(module, weight.data, weight.quant_state, dtype))
        elif isinstance(module, Linear8bitLt):
            weight = module.weight
            _put(model, name, QuantLinear(module, weight.data, weight.SCB, dtype))
    give_back()  # what reading and packing has left in the heap


def make_up(model: nn.Module, quant: QuantSpec) -> None:
    """Give a model without a base's numbers (see `estimate.skeleton`) packed layers too.

    Their numbers are made up, because packing real ones takes long.
    """
    from slipway.training.lora.attach import linear_names

    for name in linear_names(model):
        linear = model.get_submodule(name)
        packed, scales = _made_up(linear.weight, quant)
        _put(model, name, QuantLinear(linear, packed, scales, linear.weight.dtype))


def _made_up(weight: Tensor, quant: QuantSpec) -> tuple[Tensor, Any]:
    count, device = weight.numel(), weight.device
    if quant.bits == 8:
        scales = torch.full((weight.shape[0],), 0.03, device=device)
        return torch.zeros_like(weight, dtype=torch.int8).fill_(3), scales
    packed = torch.full(((count + 1) // 2, 1), 0x59, dtype=torch.uint8, device=device)
    blocks = -(-count // _BLOCK)
    like = torch.randn(_BLOCK, _BLOCK)
    _, state = bitsandbytes().functional.quantize_4bit(
        like, quant_type=quant.type, compress_statistics=quant.double
    )
    state.to(device)
    state.shape, state.dtype = weight.shape, weight.dtype
    state.absmax = torch.full((blocks,), 100, dtype=state.absmax.dtype, device=device)
    if quant.double:
        state.state2.absmax = torch.full((-(-blocks // _NESTED),), 0.01, device=device)
    return packed, state


def seconds_per_weight(quant: QuantSpec) -> float:
    """How long packing takes on this machine, measured on a small matrix."""
    packing, weight = bitsandbytes().functional, torch.randn(_PROBE)
    for _ in range(2):  # the first is a warm-up
        start = time.perf_counter()
        if quant.bits == 8:
            packing.int8_vectorwise_quant(weight.to(torch.float16))
        else:
            packing.quantize_4bit(weight, quant_type=quant.type, compress_statistics=quant.double)
    return (time.perf_counter() - start) / float(weight.numel())


def _put(model: nn.Module, name: str, layer: QuantLinear) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
