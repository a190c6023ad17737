"""The walk: every scheme on the same matrix with its error, and two blocks step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from slipway.export.lesson import blocks
from slipway.export.lesson.schemes import BLOCK, Floats, Group, asymmetric, symmetric
from slipway.export.lesson.superblocks import READERS, SUPER, SuperBlocks
from slipway.export.lesson.weights import Weight
from slipway.export.toolchain import Toolchain

_SHOWN = 8


@dataclass(frozen=True)
class Row:
    """What one scheme does to the matrix.

    Attributes:
        scheme: "INT8 symmetric", "Q4_0", ...
        group: what shares a scale: tensor, row, block of 32, super-block of 256.
        bits: bits per weight, scales included.
        max_error, rmse: in the unit of the weights.
        relative: root of sum of squared errors by sum of squared weights.
        exact: the bytes are those of llama.cpp (None: no format of llama.cpp).
    """

    scheme: str
    group: str
    bits: float
    max_error: float
    rmse: float
    relative: float
    exact: bool | None = None


@dataclass(frozen=True)
class BlockSteps:
    """One block of 32 weights in a format of llama.cpp.

    Attributes:
        kind: the format.
        raw: its bytes, hexadecimal.
        scale, offset: as they are read from the bytes; offset None where there is none.
        weights, codes, back: the first eight.
        worst: the greatest error in the block.
    """

    kind: str
    raw: str
    scale: float
    offset: float | None
    weights: list[float]
    codes: list[int]
    back: list[float]
    worst: float


@dataclass(frozen=True)
class SuperSteps:
    """One super-block of 256 weights, taken apart; `effective` is d * scale of each block."""

    kind: str
    d: float
    dmin: float | None
    scales: list[int]
    mins: list[int] | None
    effective: list[float]
    weights: list[float]
    codes: list[int]
    back: list[float]


@dataclass(frozen=True)
class Lesson:
    """Everything the walk shows."""

    weight: Weight
    rows: list[Row]
    block: BlockSteps
    super_block: SuperSteps | None
    back: dict[str, Floats] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """The lesson as one JSON document."""
        values = self.weight.values
        return {
            "tensor": self.weight.name,
            "type": self.weight.kind,
            "shape": list(self.weight.shape),
            "rows_used": values.shape[0],
            "min": float(values.min()),
            "max": float(values.max()),
            "std": float(values.std()),
            "schemes": [vars(row) for row in self.rows],
            "block": vars(self.block),
            "super_block": vars(self.super_block) if self.super_block else None,
        }


def walk(weight: Weight, kind: str, toolchain: Toolchain | None) -> Lesson:
    """Quantise a matrix in every way that is explained here.

    Args:
        kind: the format whose block is shown step by step: Q8_0, Q5_0, Q4_1 or Q4_0.
        toolchain: whose quantiser makes the K-quants, and is compared with; None leaves that out.
    """
    values = weight.values
    rows, back = _integers(values)
    for name, encode in blocks.ENCODERS.items():
        data = encode(values)
        back[name] = blocks.back(name, data).reshape(values.shape)
        exact = None
        if toolchain is not None:
            exact = data.tobytes() == _by_tool(values, name, toolchain).tobytes()
        bits = 8 * data.shape[1] / BLOCK
        rows.append(_row(name, f"block of {BLOCK}", bits, values, back[name], exact))
    steps = None
    if toolchain is not None and values.shape[1] % SUPER == 0:
        for name, (size, read) in READERS.items():
            data = _by_tool(values, name, toolchain).reshape(-1, size)
            taken = read(data)
            back[name] = taken.back.reshape(values.shape)
            bits = 8 * size / SUPER
            rows.append(_row(name, f"super-block of {SUPER}", bits, values, back[name], True))
            if name == "Q4_K":
                steps = _super_steps(name, taken, values)
    rows.sort(key=lambda row: (-row.bits, row.relative))
    return Lesson(weight, rows, _block_steps(kind, values), steps, back)


def _integers(values: Floats) -> tuple[list[Row], dict[str, Floats]]:
    rows, back = [], {}
    for bits in (8, 4):
        for name, quantise in (("symmetric", symmetric), ("asymmetric", asymmetric)):
            for group in get_args(Group):
                done = quantise(values, bits, group)
                scheme = f"INT{bits} {name}"
                rows.append(_row(scheme, group, done.bits, values, done.back))
                back[f"{scheme}, {group}"] = done.back
    return rows, back


def _row(
    scheme: str, group: str, bits: float, values: Floats, back: Floats, exact: bool | None = None
) -> Row:
    error = back.astype(np.float64) - values
    squares = float((error**2).sum())
    whole = float((values.astype(np.float64) ** 2).sum()) or 1.0
    return Row(
        scheme,
        group,
        round(bits, 4),
        float(np.abs(error).max()),
        float(np.sqrt(squares / values.size)),
        float(np.sqrt(squares / whole)),
        exact,
    )


def _by_tool(values: Floats, kind: str, toolchain: Toolchain) -> blocks.Bytes:
    from slipway.export.lesson.tool import quantised_by_tool

    return quantised_by_tool(values, kind, toolchain)


def _block_steps(kind: str, values: Floats) -> BlockSteps:
    """The block with the largest weight, where a scale has most to do."""
    rows = values.reshape(-1, BLOCK)
    chosen = rows[int(np.abs(rows).max(axis=1).argmax())][None]
    data = blocks.ENCODERS[kind](chosen)
    back = blocks.back(kind, data)[0]
    halves = data[0, :4].copy().view(np.float16)
    return BlockSteps(
        kind,
        data[0].tobytes().hex(" "),
        float(halves[0]),
        float(halves[1]) if kind == "Q4_1" else None,
        [float(x) for x in chosen[0, :_SHOWN]],
        [int(x) for x in blocks.codes_of(kind, data)[0, :_SHOWN]],
        [float(x) for x in back[:_SHOWN]],
        float(np.abs(back - chosen[0]).max()),
    )


def _super_steps(kind: str, taken: SuperBlocks, values: Floats) -> SuperSteps:
    at = int(np.abs(values.reshape(-1, SUPER)).max(axis=1).argmax())
    return SuperSteps(
        kind,
        float(taken.d[at, 0]),
        float(taken.dmin[at, 0]) if taken.dmin is not None else None,
        [int(x) for x in taken.scales[at]],
        [int(x) for x in taken.mins[at]] if taken.mins is not None else None,
        [float(x) for x in taken.d[at, 0] * taken.scales[at]],
        [float(x) for x in values.reshape(-1, SUPER)[at, :_SHOWN]],
        [int(x) for x in taken.codes[at, 0, :_SHOWN]],
        [float(x) for x in taken.back[at, :_SHOWN]],
    )
