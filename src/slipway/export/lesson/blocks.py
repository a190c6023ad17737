"""llama.cpp's block types Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: 32 weights with a scale of their own.

Made as `llama-quantize` makes them without an importance matrix, byte for byte; tests hold them
against the program. All sums are fp32, as there, for a single different rounding would show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slipway.export.lesson.coded import Bytes, Coded, Field, Floats, Layout

BLOCK = 32
_HALF = BLOCK // 2


def _layout(name: str, bits: int, *, minimum: bool) -> Layout:
    fields = [Field("d", 16)]
    fields += [Field("m", 16)] if minimum else []
    fields += [Field("qh", BLOCK)] if bits == 5 else []
    low = min(bits, 4) if bits < 8 else 8
    return Layout(name, "block", bits, BLOCK, (*fields, Field("qs", low * BLOCK)))


BLOCKS: dict[str, Layout] = {
    "Q8_0": _layout("Q8_0", 8, minimum=False),
    "Q5_0": _layout("Q5_0", 5, minimum=False),
    "Q5_1": _layout("Q5_1", 5, minimum=True),
    "Q4_0": _layout("Q4_0", 4, minimum=False),
    "Q4_1": _layout("Q4_1", 4, minimum=True),
}


def quantise(name: str, weights: Floats) -> Bytes:
    """The bytes of (rows, columns) in a block type: (rows, bytes of a row)."""
    layout = BLOCKS[name]
    groups = weights.reshape(-1, BLOCK)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if name == "Q8_0":
            parts = _eight_bits(groups)
        elif name.endswith("_1"):
            parts = _from_minimum(groups, layout.bits)
        else:
            parts = _around_zero(groups, layout.bits)
    return np.concatenate(parts, axis=1).reshape(len(weights), -1)


def _halves(values: Floats) -> Bytes:
    """Each value as the two bytes of an fp16 number."""
    return values.astype("<f2").view(np.uint8).reshape(-1, 2)


def _inverse(step: Floats) -> Floats:
    return np.where(step == 0, np.float32(0), np.float32(1) / step).astype(np.float32)


def _eight_bits(groups: Floats) -> list[Bytes]:
    step: Floats = (np.abs(groups).max(axis=1, keepdims=True) / 127).astype(np.float32)
    scaled = (groups * _inverse(step)).astype(np.float64)
    # C's roundf: halves away from zero
    integers = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    return [_halves(step), integers.astype(np.int8).view(np.uint8)]


def _around_zero(groups: Floats, bits: int) -> list[Bytes]:
    """The weight farthest from 0 becomes the integer -8 (-16): the only one that side has more."""
    centre = 1 << (bits - 1)
    farthest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    # a block of nothing but zeros has the step -0.0, whatever the signs of the zeros
    step: Floats = (np.where(farthest == 0, 0, farthest) / -centre).astype(np.float32)
    shifted = groups * _inverse(step) + np.float32(centre + 0.5)
    return [_halves(step), *_packed(shifted, bits)]


def _from_minimum(groups: Floats, bits: int) -> list[Bytes]:
    # by place: of 0.0 and -0.0 the first counts
    low = np.take_along_axis(groups, groups.argmin(axis=1)[:, None], axis=1)
    step = (groups.max(axis=1, keepdims=True) - low) / np.float32((1 << bits) - 1)
    shifted = (groups - low) * _inverse(step) + np.float32(0.5)
    return [_halves(step), _halves(low), *_packed(shifted, bits)]


def _packed(shifted: Floats, bits: int) -> list[Bytes]:
    """Cut off to integers; weight j and j + 16 share a byte, a fifth bit goes to `qh`."""
    integers: Bytes = np.minimum(shifted.astype(np.int32), (1 << bits) - 1).astype(np.uint8)
    low: Bytes = integers & np.uint8(15)
    packed: Bytes = low[:, :_HALF] | (low[:, _HALF:] << np.uint8(4))
    if bits == 4:
        return [packed]
    high: Bytes = np.packbits(integers >> 4, axis=1, bitorder="little")
    return [high, packed]


def decode(name: str, data: Bytes, columns: int) -> Coded:
    """What the bytes (rows, bytes of a row) stand for."""
    layout = BLOCKS[name]
    blocks = data.reshape(-1, layout.nbytes)
    parts: dict[str, Bytes] = {}
    at = 0
    for field in layout.fields:
        parts[field.name] = np.ascontiguousarray(blocks[:, at : at + field.bits // 8])
        at += field.bits // 8
    scales = _fp16(parts["d"])
    kept: dict[str, NDArray[np.generic]] = {"d": scales.astype(np.float16)}
    offsets = np.zeros_like(scales)
    integers = _integers(parts, layout.bits)
    if "m" in parts:
        offsets = _fp16(parts["m"])
        kept["m"] = offsets.astype(np.float16)
    elif layout.bits < 8:
        integers = integers - np.int16(1 << (layout.bits - 1))
    values = integers.astype(np.float32) * scales[:, None]
    if "m" in parts:
        values += offsets[:, None]
    shape = (len(data), columns)
    return Coded(
        layout,
        integers.reshape(shape),
        scales,
        offsets,
        BLOCK,
        values.reshape(shape),
        kept,
        data,
    )


def _fp16(pairs: Bytes) -> Floats:
    return pairs.view("<f2")[:, 0].astype(np.float32)


def _integers(parts: dict[str, Bytes], bits: int) -> NDArray[np.int16]:
    packed = parts["qs"]
    if bits == 8:
        return packed.view(np.int8).astype(np.int16)
    integers = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.int16)
    if bits == 5:
        integers |= np.unpackbits(parts["qh"], axis=1, bitorder="little").astype(np.int16) << 4
    return integers
