"""Textbook INT8 and INT4: one scale for a whole tensor, for a row, or for 32 weights.

Symmetric: `s = max|w| / (2^(b-1) - 1)`, `q = round(w / s)`, `w' = s q`.
Asymmetric: the range from min (at most 0) to max (at least 0) has `2^b - 1` steps of `s`;
`z = round(-min / s)` is the integer that stands for 0, `q = round(w / s) + z`, `w' = s (q - z)`.

The scale is kept as fp16, as llama.cpp's block types keep theirs, so that the sizes compare.
Source: Jacob et al. 2018, arXiv 1712.05877, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from slipway.export.lesson.coded import Coded, Field, Floats, Layout

Reach = Literal["tensor", "row", "block"]
BLOCK = 32
_SMALLEST_FP16 = np.float32(2.0**-24)


@dataclass(frozen=True, slots=True)
class Linear:
    """A textbook scheme.

    Attributes:
        reach: the weights that share a scale.
    """

    bits: int
    symmetric: bool
    reach: Reach

    @property
    def name(self) -> str:
        """Such as "INT4-asym-block"."""
        return f"INT{self.bits}-{'sym' if self.symmetric else 'asym'}-{self.reach}"

    def layout(self, rows: int, columns: int) -> Layout:
        """The scheme on a matrix; the scale is fp16, the zero point one more integer."""
        block = {"tensor": rows * columns, "row": columns, "block": BLOCK}[self.reach]
        zero = () if self.symmetric else (Field("zero_point", self.bits),)
        fields = (Field("scale", 16), *zero, Field("qs", self.bits * block))
        return Layout(self.name, "linear", self.bits, block, fields)

    def code(self, weights: Floats) -> Coded:
        """Quantise (rows, columns); columns are a multiple of 32 where a block shares a scale."""
        layout = self.layout(*weights.shape)
        groups = weights.reshape(-1, layout.block)
        levels = (1 << self.bits) - 1
        low = np.minimum(groups.min(axis=1), 0)
        high = np.maximum(groups.max(axis=1), 0)
        if self.symmetric:
            step = np.maximum(high, -low) / np.float32(levels // 2)
        else:
            step = (high - low) / np.float32(levels)
        scales = np.maximum(step, _SMALLEST_FP16).astype(np.float16).astype(np.float32)
        if self.symmetric:
            zero = np.zeros(len(groups), dtype=np.float32)
            least, most = -(levels // 2), levels // 2
        else:
            zero = np.clip(np.rint(-low / scales), 0, levels)
            least, most = 0, levels
        integers = np.clip(np.rint(groups / scales[:, None]) + zero[:, None], least, most)
        values = scales[:, None] * (integers - zero[:, None])
        kept = {"scale": scales.astype(np.float16)}
        return Coded(
            layout,
            integers.astype(np.int16).reshape(weights.shape),
            scales,
            -scales * zero,
            layout.block,
            values.reshape(weights.shape),
            kept if self.symmetric else {**kept, "zero_point": zero.astype(np.int16)},
        )


LINEAR: dict[str, Linear] = {
    scheme.name: scheme
    for bits in (8, 4)
    for symmetric in (True, False)
    for reach in ("tensor", "row", "block")
    for scheme in [Linear(bits, symmetric, reach)]
}
