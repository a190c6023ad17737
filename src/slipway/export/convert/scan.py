"""One pass over a folder's weights before they are converted: numbers that would not survive.

The bits are compared as whole numbers, which is as fast as the file is read: without its sign a
float grows with its bits, and infinity and NaN stand above all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import ProofError
from slipway.core.i18n import tr
from slipway.export.shards import Entry, Weights, raw_bytes

if TYPE_CHECKING:
    import numpy as np

F16_LARGEST = 65504.0
# number format -> (bits of a number, where infinity begins without its sign)
_BITS = {
    "F64": (64, 0x7FF0000000000000),
    "F32": (32, 0x7F800000),
    "F16": (16, 0x7C00),
    "BF16": (16, 0x7F80),
}


@dataclass(frozen=True, slots=True)
class Scan:
    """What the weights are like.

    Attributes:
        largest: greatest magnitude in a matrix (vectors stay fp32 in a GGUF).
        largest_name: the matrix that has it.
    """

    largest: float
    largest_name: str


def scan_weights(model_dir: Path) -> Scan:
    """Read every weight once.

    Raises:
        ProofError: one is infinite or no number; such a model answers nothing.
    """
    largest, largest_name = 0.0, ""
    for entry in Weights(model_dir).entries.values():
        if entry.dtype not in _BITS:
            continue
        mask = (1 << (_BITS[entry.dtype][0] - 1)) - 1
        top = max((int((bits & mask).max(initial=0)) for bits in _pieces(entry)), default=0)
        if top >= _BITS[entry.dtype][1]:
            raise _not_finite(model_dir, entry)
        value = _as_float(top, entry.dtype)
        if len(entry.shape) > 1 and value > largest:
            largest, largest_name = value, entry.name
    return Scan(largest, largest_name)


def only_bf16(model_dir: Path) -> bool:
    """Whether every fp32 matrix of the folder holds bf16 numbers alone; stops at the first other.

    Such a folder was widened when it was saved, and loses nothing as bf16.
    """
    return not any(
        (bits & 0xFFFF).any()
        for entry in Weights(model_dir).entries.values()
        if entry.dtype == "F32" and len(entry.shape) > 1
        for bits in _pieces(entry)
    )


def _pieces(entry: Entry) -> Iterator[np.ndarray[Any, Any]]:
    import numpy as np

    for piece in raw_bytes(entry):
        yield np.frombuffer(piece, dtype=f"<u{_BITS[entry.dtype][0] // 8}")


def _as_float(bits: int, dtype: str) -> float:
    import numpy as np

    if dtype == "BF16":
        bits, dtype = bits << 16, "F32"
    size = _BITS[dtype][0] // 8
    return float(np.frombuffer(bits.to_bytes(size, "little"), dtype=f"<f{size}")[0])


def _not_finite(model_dir: Path, entry: Entry) -> ProofError:
    return ProofError(
        "convert.not_finite",
        tr(
            "`{tensor}` in {folder} holds numbers that are infinite or none (NaN)",
            tensor=entry.name,
            folder=model_dir,
        ),
        tr("the training went wrong or a file is damaged: take an earlier checkpoint"),
    )


def require_f16_range(model_dir: Path, scan: Scan) -> None:
    """Refuse numbers that would become infinite in fp16.

    Raises:
        ProofError: there are some; the message names the matrix.
    """
    if scan.largest > F16_LARGEST:
        raise ProofError(
            "convert.f16_overflow",
            tr(
                "`{tensor}` in {folder} holds {value:.6g}, more than fp16 can ({most:g})",
                tensor=scan.largest_name,
                folder=model_dir,
                value=scan.largest,
                most=F16_LARGEST,
            ),
            tr("convert with `--outtype bf16` or `--outtype f32`"),
        )
