"""What every scheme has in common: integers, what they are multiplied with, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int16]

Family = Literal["linear", "block", "super-block"]


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a block's bytes.

    Attributes:
        name: as llama.cpp's structures call it, "qs" for the integers.
        bits: of the block, all its items together.
    """

    name: str
    bits: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A scheme as it lies in memory.

    Attributes:
        bits: of one integer.
        block: weights that share the fields; 0 when it depends on the tensor.
        fields: in the order of the bytes.
    """

    name: str
    family: Family
    bits: int
    block: int
    fields: tuple[Field, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return sum(field.bits for field in self.fields) // 8

    @property
    def bits_per_weight(self) -> float:
        """All fields counted."""
        return sum(field.bits for field in self.fields) / self.block


@dataclass(frozen=True, slots=True)
class Coded:
    """A matrix of weights as a scheme keeps it: `values = scales × integers + offsets`.

    Attributes:
        integers: (rows, columns), with the sign that they are multiplied with.
        scales: (groups,), the step of each `group` weights that follow each other.
        offsets: (groups,), the weight that integer 0 stands for.
        values: (rows, columns), the weights that come back.
        kept: the numbers beside the integers as they are stored, (blocks, …) each.
        data: (rows, bytes of a row) as a GGUF holds them; None for a scheme with no file format.
    """

    layout: Layout
    integers: Integers
    scales: Floats
    offsets: Floats
    group: int
    values: Floats
    kept: Mapping[str, NDArray[np.generic]]
    data: Bytes | None = None
