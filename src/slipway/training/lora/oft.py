"""OFT: a frozen linear layer whose inputs are rotated, block by block: y = W R x.

Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning" (arXiv 2306.07280).
R is block-diagonal, and each block is the Cayley transform (I - Q)(I + Q)^-1 of a skew-symmetric
Q, whose upper triangle is trained; so lengths of and angles between the rows of W stay. Laid out as
PEFT's `oft_R`: [blocks, size * (size - 1) / 2], of rows that multiply from the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slipway.training.frozen import FrozenRows
from slipway.training.lora.layer import AdapterLayer


@dataclass(frozen=True, slots=True)
class OftShape:
    """Size of one layer's rotation.

    Attributes:
        block: wanted size of a block; a layer takes the nearest one that divides its inputs.
        blocks: their number instead, if `block` is 0.
        dropout: part of the blocks that is left unrotated at each training pass.
        terms: of the Neumann series that stands for the inverse in PEFT's fast variant; 0: exact.
    """

    block: int
    blocks: int = 0
    dropout: float = 0.0
    terms: int = 0

    def size(self, width: int) -> int:
        """Size of a block in a layer with so many inputs, by PEFT's rule."""
        if self.block:
            return _divisor(width, self.block)
        return width // _divisor(width, self.blocks)


def _divisor(width: int, wanted: int) -> int:
    """The divisor of `width` nearest to `wanted`, of two equally near ones the smaller."""
    if wanted >= width:
        return width
    higher = next(n for n in range(wanted, width + 1) if width % n == 0)
    lower = next(n for n in range(wanted, 0, -1) if width % n == 0)
    return lower if wanted - lower <= higher - wanted else higher


class OftLinear(AdapterLayer):
    """A frozen `nn.Linear` with trained rotations of its inputs."""

    def __init__(self, base: nn.Linear, shape: OftShape) -> None:
        super().__init__(base)
        self.shape = shape
        self.size = shape.size(base.in_features)
        count = base.in_features // self.size
        pairs, device = self.size * (self.size - 1) // 2, base.weight.device
        self.rotation = nn.Parameter(torch.zeros(count, pairs, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        if not self.off:
            blocks = rows.view(len(rows), -1, self.size).transpose(0, 1)
            turned = torch.bmm(blocks, self._kept(self.rotations()).to(x.dtype))
            rows = turned.transpose(0, 1).reshape(len(rows), -1)
        y = FrozenRows.apply(rows, self.product(), self.base.bias, None)
        return y.view(*x.shape[:-1], y.shape[-1])

    def rotations(self) -> Tensor:
        """The blocks [blocks, size, size] that multiply inputs from the right, fp32."""
        size = self.size
        rows, columns = torch.triu_indices(size, size, 1, device=self.rotation.device)
        places = rows * size + columns
        flat = self.rotation.new_zeros(len(self.rotation), size * size)
        upper = flat.index_copy(1, places, self.rotation).view(-1, size, size)
        skew = upper - upper.transpose(1, 2)
        one = torch.eye(size, device=skew.device, dtype=skew.dtype).expand_as(skew)
        if self.shape.terms:
            return _neumann(skew, one, self.shape.terms)
        return torch.linalg.solve(one + skew, one - skew, left=False)

    def _kept(self, blocks: Tensor) -> Tensor:
        """Blocks of which some are left out, while training with dropout."""
        out = int(self.shape.dropout * len(blocks))
        if not (self.training and out) or len(blocks) == 1:
            return blocks
        left = torch.randperm(len(blocks))[:out].to(blocks.device)
        one = torch.eye(self.size, device=blocks.device, dtype=blocks.dtype)
        return blocks.index_copy(0, left, one.expand(out, -1, -1))

    def merged(self) -> Tensor:
        """See `AdapterLayer`."""
        weight = self.product().whole().float()
        blocks = weight.view(len(weight), -1, self.size)
        with torch.no_grad():
            turned = torch.einsum("orc,rkc->ork", blocks, self.rotations())
        return turned.reshape_as(weight)

    def tensors(self) -> dict[str, Tensor]:
        """See `AdapterLayer`."""
        return {"oft_R.weight": self.rotation}

    def saved(self) -> dict[str, Tensor]:
        """See `AdapterLayer`."""
        return {"oft_R.weight": self.rotation.detach()}


def _neumann(skew: Tensor, one: Tensor, terms: int) -> Tensor:
    """PEFT's series for (I + Q)(I - Q)^-1: I + 2 Q + 2 Q^2 + ... with the last power once."""
    if terms <= 2:
        return one + 2 * skew if terms == 2 else one.clone()
    total, power = one + 2 * skew, skew
    for _ in range(max(terms - 3, 1)):
        power = torch.bmm(power, skew)
        total = total + 2 * power
    return total + torch.bmm(power, skew)
