"""Some rows of one matrix of a model, as fp32: from a model folder or a GGUF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slipway.core.errors import InputError, NotFoundError, nearest
from slipway.core.gguf import read_gguf
from slipway.core.i18n import tr
from slipway.export.lesson.schemes import Floats
from slipway.export.lesson.superblocks import SUPER
from slipway.export.shards import Weights

_MOST = 1 << 20  # weights that are looked at; more say the same and take longer
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class Weight:
    """Rows of a matrix.

    Attributes:
        name: of the tensor.
        kind: its format in the file.
        shape: of the whole matrix, rows first.
        values: the first rows, fp32.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    values: Floats


def take_weight(model: Path, name: str | None = None) -> Weight:
    """Read a matrix; without a name one in the middle whose rows suit super-blocks.

    Raises:
        NotFoundError: no such tensor; the hint names the nearest.
        InputError: it is no matrix, its rows do not divide into blocks of 32, or the model has none
            that does.
    """
    return _from_gguf(model, name) if model.is_file() else _from_folder(model, name)


def _choose(shapes: dict[str, tuple[int, ...]], name: str | None, model: Path) -> str:
    if name is not None:
        if name not in shapes:
            close = nearest(name, list(shapes))
            raise NotFoundError(
                "explain.no_tensor",
                tr("{model} has no tensor `{name}`", model=model, name=name),
                tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
                if close
                else tr("list them with `slipway gguf inspect FILE --tensors`"),
            )
        if len(shapes[name]) != 2 or shapes[name][1] % 32:
            raise InputError(
                "explain.not_blocks",
                tr(
                    "`{name}` of shape {shape} is no matrix with rows of whole blocks of 32",
                    name=name,
                    shape=list(shapes[name]),
                ),
            )
        return name
    fitting = [n for n, s in shapes.items() if len(s) == 2 and s[1] % SUPER == 0 and s[0] > 1]
    inner = [n for n in fitting if "down" in n] or [n for n in fitting if "embd" not in n]
    found = inner or fitting or [n for n, s in shapes.items() if len(s) == 2 and s[1] % 32 == 0]
    if not found:
        raise InputError("explain.no_matrix", tr("{model} has no matrix to show", model=model))
    return found[len(found) // 2]


def _from_folder(folder: Path, name: str | None) -> Weight:
    weights = Weights(folder)
    shapes = {n: e.shape for n, e in weights.entries.items() if e.dtype in _DTYPES}
    name = _choose(shapes, name, folder)
    entry = weights.entries[name]
    rows = _rows(entry.shape)
    dtype = _DTYPES[entry.dtype]
    with entry.path.open("rb") as file:
        file.seek(entry.begin)
        raw = np.frombuffer(file.read(rows * entry.shape[1] * dtype.itemsize), dtype)
    values = _fp32(raw).reshape(rows, entry.shape[1])
    return Weight(name, entry.dtype, (entry.shape[0], entry.shape[1]), values)


def _from_gguf(path: Path, name: str | None) -> Weight:
    import gguf

    header = read_gguf(path)
    tensors = {t.name: t for t in header.tensors}
    shapes = {n: tuple(reversed(t.shape)) for n, t in tensors.items()}
    name = _choose(shapes, name, path)
    tensor, shape = tensors[name], shapes[name]
    rows = _rows(shape)
    size = tensor.nbytes // shape[0] * rows
    with path.open("rb") as file:
        file.seek(tensor.offset)
        data = np.frombuffer(file.read(size), np.uint8).reshape(rows, -1)
    kind = gguf.GGMLQuantizationType[tensor.type]
    values = np.asarray(gguf.quants.dequantize(data, kind), np.float32).reshape(rows, shape[1])
    return Weight(name, tensor.type, (shape[0], shape[1]), values)


def _rows(shape: tuple[int, ...]) -> int:
    return max(1, min(shape[0], _MOST // math.prod(shape[1:])))


def _fp32(raw: np.ndarray) -> Floats:
    if raw.dtype == np.dtype("<u2"):  # bf16 is the upper half of an fp32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
