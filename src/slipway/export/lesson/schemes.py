"""Symmetric and asymmetric integers over any group of weights: the idea behind every format.

A group of weights w shares one scale d (and, asymmetric, one offset):

    symmetric    q = round(w / d)          d = max|w| / (2^(b-1) - 1)     back: d * q
    asymmetric   q = round((w - m) / d)    d = (max - min) / (2^b - 1)    back: d * q + m, m = min

Symmetric keeps zero exact and wastes a code when the weights lie to one side; asymmetric uses the
whole range of a group and stores one number more. The smaller the group, the less one large weight
spoils its neighbours, and the more scales there are to store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Group = Literal["tensor", "row", "block of 32"]

BLOCK = 32
_SCALE_BITS = 16  # a scale or an offset is kept as fp16


@dataclass(frozen=True)
class Quantised:
    """Weights as integers, and back.

    Attributes:
        integers: as many as there were weights, in groups: (groups, weights of a group).
        scale: d of each group, (groups, 1).
        offset: m of each group; None where it is symmetric.
        back: the weights that the integers stand for, in the shape of the weights.
        bits: bits per weight, scales and offsets included.
    """

    integers: NDArray[Any]
    scale: Floats
    offset: Floats | None
    back: Floats
    bits: float


def grouped(weights: Floats, group: Group) -> Floats:
    """The weights as (groups, weights of a group)."""
    match group:
        case "tensor":
            return weights.reshape(1, -1)
        case "row":
            return weights.reshape(weights.shape[0], -1)
        case _:
            return weights.reshape(-1, BLOCK)


def symmetric(weights: Floats, bits: int, group: Group) -> Quantised:
    """Integers from -(2^(b-1)-1) to 2^(b-1)-1 with one scale for each group."""
    rows = grouped(weights, group)
    most = 2 ** (bits - 1) - 1
    scale = _stored(np.abs(rows).max(axis=1, keepdims=True) / most)
    integers = np.clip(np.rint(_divided(rows, scale)), -most, most).astype(np.int8)
    back = (integers * scale).astype(np.float32).reshape(weights.shape)
    return Quantised(integers, scale, None, back, bits + _SCALE_BITS / rows.shape[1])


def asymmetric(weights: Floats, bits: int, group: Group) -> Quantised:
    """Integers from 0 to 2^b - 1 with one scale and one offset for each group."""
    rows = grouped(weights, group)
    most = 2**bits - 1
    low = _stored(rows.min(axis=1, keepdims=True))
    span = rows.max(axis=1, keepdims=True) - low
    scale = _stored(span / most)
    integers = np.clip(np.rint(_divided(rows - low, scale)), 0, most).astype(np.uint8)
    back = (integers * scale + low).astype(np.float32).reshape(weights.shape)
    return Quantised(integers, scale, low, back, bits + 2 * _SCALE_BITS / rows.shape[1])


def _stored(values: Floats) -> Floats:
    """As the file keeps it: in fp16."""
    return values.astype(np.float16).astype(np.float32)


def _divided(rows: Floats, scale: Floats) -> Floats:
    """rows / scale, and 0 where the scale is 0: a group of zeros."""
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.asarray(rows / safe, np.float32)
