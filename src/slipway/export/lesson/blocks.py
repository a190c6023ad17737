"""Blocks of 32 weights as llama.cpp writes them: Q8_0, Q4_0, Q4_1, Q5_0; to the bit.

    Q8_0   d (fp16), 32 int8                                   34 bytes   8.5 bits per weight
    Q4_0   d (fp16), 32 * 4 bits                               18 bytes   4.5
    Q4_1   d, m (fp16), 32 * 4 bits                            20 bytes   5.0
    Q5_0   d (fp16), 32 * 1 high bit, 32 * 4 low bits          22 bytes   5.5

Layouts: `ggml-common.h`; the arithmetic: `quantize_row_*_ref` of `ggml-quants.c`. Weights i and
i + 16 share a byte: the lower four bits belong to i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipway.export.lesson.schemes import BLOCK, Floats

Bytes = NDArray[Any]
"""Blocks as unsigned bytes, one in a row."""

Encode = Callable[[Floats], Bytes]

_HALF = BLOCK // 2
_EMPTY = np.float32(0)


def q8_0(weights: Floats) -> Bytes:
    """d = max|w| / 127, q = round(w / d), halves away from zero."""
    rows = weights.reshape(-1, BLOCK)
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    integers = _away(rows * _inverse(scale)).astype(np.int8)
    return _joined(_half(scale), integers.view(np.uint8))


def q4_0(weights: Floats) -> Bytes:
    """d = w* / -8 with w* the weight farthest from zero, sign kept; q = trunc(w / d + 8.5).

    So w* itself becomes the code 0, which stands for -8 d, exactly; one side of the block has a
    code more than the other.
    """
    rows = weights.reshape(-1, BLOCK)
    scale = _farthest(rows) / np.float32(-8)
    codes = np.minimum(15, (rows * _inverse(scale) + np.float32(8.5)).astype(np.uint8))
    return _joined(_half(scale), _nibbles(codes))


def q4_1(weights: Floats) -> Bytes:
    """m = min, d = (max - min) / 15, q = trunc((w - m) / d + 0.5)."""
    rows = weights.reshape(-1, BLOCK)
    low = np.take_along_axis(rows, rows.argmin(axis=1)[:, None], axis=1)  # the first, +0 or -0
    scale = (rows.max(axis=1, keepdims=True) - low) / np.float32(15)
    codes = np.minimum(15, ((rows - low) * _inverse(scale) + np.float32(0.5)).astype(np.uint8))
    return _joined(_half(scale), _half(low), _nibbles(codes))


def q5_0(weights: Floats) -> Bytes:
    """Like Q4_0 with 32 codes: d = w* / -16, q = trunc(w / d + 16.5)."""
    rows = weights.reshape(-1, BLOCK)
    scale = _farthest(rows) / np.float32(-16)
    codes = np.minimum(31, (rows * _inverse(scale) + np.float32(16.5)).astype(np.uint8))
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    return _joined(_half(scale), high, _nibbles(codes & 15))


def codes_of(kind: str, blocks: Bytes) -> NDArray[Any]:
    """The integers in blocks of these formats, (blocks, 32): Q8_0 signed, the others from 0."""
    if kind == "Q8_0":
        signed: NDArray[Any] = blocks[:, 2:].view(np.int8)
        return signed
    low = blocks[:, -_HALF:]
    codes: NDArray[Any] = np.concatenate([low & 15, low >> 4], axis=1)
    if kind == "Q5_0":
        high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
        codes = codes | (high << 4)
    found: NDArray[Any] = np.asarray(codes, dtype=np.uint8)
    return found


def back(kind: str, blocks: Bytes) -> Floats:
    """The weights that blocks of these formats stand for, (blocks, 32)."""
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = codes_of(kind, blocks).astype(np.float32)
    if kind == "Q4_1":
        offset = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
        shifted: Floats = np.asarray(scale * codes + offset, np.float32)
        return shifted
    middle = np.float32({"Q4_0": 8, "Q5_0": 16}.get(kind, 0))
    values: Floats = np.asarray(scale * (codes - middle), np.float32)
    return values


ENCODERS: dict[str, Encode] = {"Q8_0": q8_0, "Q5_0": q5_0, "Q4_1": q4_1, "Q4_0": q4_0}
"""Formats of which every byte is known here, largest first."""


def _farthest(rows: Floats) -> Floats:
    """Of each row the weight farthest from zero, with its sign; the first of equals; never -0."""
    where = np.abs(rows).argmax(axis=1)[:, None]
    found = np.take_along_axis(rows, where, axis=1)
    return np.where(found == 0, _EMPTY, found).astype(np.float32)


def _inverse(scale: Floats) -> Floats:
    safe = np.where(scale == 0, np.float32(1), scale)
    return np.where(scale == 0, _EMPTY, np.float32(1) / safe).astype(np.float32)


def _away(values: Floats) -> Floats:
    """Round as C's roundf does: halves away from zero."""
    return np.asarray(np.trunc(values + np.copysign(np.float32(0.5), values)), np.float32)


def _half(values: Floats) -> Bytes:
    stored: Bytes = values.astype(np.float16).view(np.uint8)
    return stored


def _nibbles(codes: Bytes) -> Bytes:
    packed: Bytes = codes[:, :_HALF] | (codes[:, _HALF:] << 4)
    return packed


def _joined(*parts: Bytes) -> Bytes:
    return np.concatenate(parts, axis=1)
