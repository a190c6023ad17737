"""Super-blocks of 256 weights: how Q4_K and Q6_K are read, to the bit.

A block of 32 spends 16 bits on its scale. K-quants spend fewer: the scales of a super-block are
integers themselves, with one fp16 scale for them all. How the scales are chosen (a weighted search)
is the quantiser's secret; how they are read is not.

    Q4_K   d, dmin (fp16), 8 * (6-bit scale, 6-bit min), 256 * 4 bits        144 bytes   4.5 bits
           w = d * scale * q - dmin * min         for each of the 8 blocks of 32
    Q6_K   256 * 4 low bits, 256 * 2 high bits, 16 int8 scales, d (fp16)     210 bytes   6.5625 bits
           w = d * scale * (q - 32)               for each of the 16 blocks of 16

Layouts: `block_q4_K`, `block_q6_K` of `ggml-common.h`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slipway.export.lesson.blocks import Bytes
from slipway.export.lesson.schemes import Floats

SUPER = 256


@dataclass(frozen=True)
class SuperBlocks:
    """Super-blocks, taken apart.

    Attributes:
        d: scale of the scales, (n, 1).
        dmin: scale of the minima, (n, 1); None for Q6_K.
        scales: integer scale of each block, (n, blocks).
        mins: integer minimum of each block; None for Q6_K.
        codes: integers, (n, blocks, weights of a block).
        back: weights, (n, 256).
    """

    d: Floats
    dmin: Floats | None
    scales: np.ndarray
    mins: np.ndarray | None
    codes: np.ndarray
    back: Floats


def q4_k(blocks: Bytes) -> SuperBlocks:
    """Read Q4_K; `blocks` is (n, 144)."""
    d, dmin = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    scales, mins = _six_bits(blocks[:, 4:16])
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    weights = (d * scales)[..., None] * codes - (dmin * mins)[..., None]
    return SuperBlocks(d, dmin, scales, mins, codes, weights.astype(np.float32).reshape(-1, SUPER))


def q6_k(blocks: Bytes) -> SuperBlocks:
    """Read Q6_K; `blocks` is (n, 210)."""
    d = _half(blocks[:, 208:210])
    scales = blocks[:, 192:208].copy().view(np.int8)
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    low = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6]).reshape(1, 1, 4, 1)
    codes = (low | ((high & 3) << 4)).reshape(-1, 16, 16)
    weights = (d * scales)[..., None] * (codes.astype(np.int16) - 32)
    return SuperBlocks(d, None, scales, None, codes, weights.astype(np.float32).reshape(-1, SUPER))


READERS = {"Q6_K": (210, q6_k), "Q4_K": (144, q4_k)}
"""Format -> bytes of a super-block, reader; largest first."""


def _half(data: Bytes) -> Floats:
    return data.copy().view(np.float16).astype(np.float32)


def _six_bits(data: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits from 12 bytes.

    The first four of each have a byte's lower six bits to themselves; the upper two bits of these
    bytes and the last four bytes make up the others.
    """
    first, second, last = data[:, 0:4], data[:, 4:8], data[:, 8:12]
    scales = np.concatenate([first & 63, (last & 15) | ((first >> 6) << 4)], axis=1)
    mins = np.concatenate([second & 63, (last >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, mins
