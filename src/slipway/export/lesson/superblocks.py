"""llama.cpp's K-types Q4_K, Q5_K, Q6_K, read from their bytes: 256 weights with scales of scales.

Q4_K and Q5_K: eight groups of 32, each with a 6-bit scale and a 6-bit minimum, which are
themselves multiplied by two fp16 numbers of the super-block: `w' = (d · scale) q - dmin · min`.
Q6_K: sixteen groups of 16 with an 8-bit scale: `w' = d · scale · q`, q from -32 to 31.

How the scales are found is llama.cpp's own search and not repeated here (see `tool`).
"""

from __future__ import annotations

import numpy as np

from slipway.export.lesson.coded import Bytes, Coded, Field, Floats, Integers, Layout

SUPER_BLOCK = 256
_GROUPS_OF_32 = SUPER_BLOCK // 32
_SCALES = Field("scales", 96)

SUPER_BLOCKS: dict[str, Layout] = {
    "Q6_K": Layout(
        "Q6_K",
        "super-block",
        6,
        SUPER_BLOCK,
        (Field("ql", 1024), Field("qh", 512), Field("scales", 128), Field("d", 16)),
    ),
    "Q5_K": Layout(
        "Q5_K",
        "super-block",
        5,
        SUPER_BLOCK,
        (Field("d", 16), Field("dmin", 16), _SCALES, Field("qh", 256), Field("qs", 1024)),
    ),
    "Q4_K": Layout(
        "Q4_K",
        "super-block",
        4,
        SUPER_BLOCK,
        (Field("d", 16), Field("dmin", 16), _SCALES, Field("qs", 1024)),
    ),
}


def decode(name: str, data: Bytes, columns: int) -> Coded:
    """What the bytes (rows, bytes of a row) of a K-type stand for."""
    layout = SUPER_BLOCKS[name]
    blocks = data.reshape(-1, layout.nbytes)
    parts: dict[str, Bytes] = {}
    at = 0
    for field in layout.fields:
        parts[field.name] = np.ascontiguousarray(blocks[:, at : at + field.bits // 8])
        at += field.bits // 8
    if name == "Q6_K":
        return _six_bits(layout, parts, data, columns)
    return _with_minimum(layout, parts, data, columns)


def _with_minimum(layout: Layout, parts: dict[str, Bytes], data: Bytes, columns: int) -> Coded:
    d, dmin = parts["d"].view("<f2"), parts["dmin"].view("<f2")
    scales, mins = six_bit_pairs(parts["scales"])
    # byte j of each 32 holds weight j of one group in its low half and of the next in its high one
    packed = parts["qs"].reshape(-1, 4, 1, 32)
    integers = np.concatenate([packed & 15, packed >> 4], axis=2)
    integers = integers.reshape(-1, _GROUPS_OF_32, 32).astype(np.int16)
    if layout.bits == 5:
        group = np.arange(_GROUPS_OF_32, dtype=np.uint8)[None, :, None]
        fifth = (parts["qh"][:, None, :] >> group) & 1
        integers |= fifth.astype(np.int16) << 4
    steps = d.astype(np.float32) * scales.astype(np.float32)
    floors = dmin.astype(np.float32) * mins.astype(np.float32)
    values = steps[:, :, None] * integers.astype(np.float32) - floors[:, :, None]
    shape = (len(data), columns)
    return Coded(
        layout,
        integers.reshape(shape),
        steps.reshape(-1),
        -floors.reshape(-1),
        32,
        values.reshape(shape),
        {"d": d[:, 0], "dmin": dmin[:, 0], "scales": scales, "mins": mins},
        data,
    )


def six_bit_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits from 12 bytes: (blocks, 8) each.

    The first four of both have their 6 bits in bytes 0–3 and 4–7. Of the others, bytes 8–11 hold
    the low four bits of both, and the two bits left over in bytes 0–7 are their high ones.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    mins = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, mins


def _six_bits(layout: Layout, parts: dict[str, Bytes], data: Bytes, columns: int) -> Coded:
    d, scales = parts["d"].view("<f2"), parts["scales"].view(np.int8)
    # two halves of 128; the four 32s of a half share 64 bytes of low bits and 32 of high bits
    low = parts["ql"].reshape(-1, 2, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[None, None, :, None]
    high = (parts["qh"].reshape(-1, 2, 1, 32) >> shift) & 3
    integers: Integers = (low | (high << 4)).reshape(-1, 16, 16).astype(np.int16) - np.int16(32)
    steps: Floats = d.astype(np.float32) * scales.astype(np.float32)
    values = steps[:, :, None] * integers.astype(np.float32)
    shape = (len(data), columns)
    return Coded(
        layout,
        integers.reshape(shape),
        steps.reshape(-1),
        np.zeros(steps.size, dtype=np.float32),
        16,
        values.reshape(shape),
        {"d": d[:, 0], "scales": scales},
        data,
    )
