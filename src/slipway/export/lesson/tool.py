"""One tensor through the real `llama-quantize`, for types whose scales are searched for there."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np

from slipway.core import process
from slipway.export.lesson.blocks import BLOCKS
from slipway.export.lesson.coded import Bytes, Floats, Layout
from slipway.export.lesson.superblocks import SUPER_BLOCKS
from slipway.export.toolchain import Toolchain

_NAME = "blk.0.ffn_up.weight"
_ALIGNMENT = 32
# llama-quantize calls the types of a whole file so
_FILE_TYPES = {"Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}


def quantise_with_tool(tools: Toolchain, name: str, weights: Floats) -> Bytes:
    """The bytes that `llama-quantize --pure` writes for (rows, columns): (rows, bytes of a row).

    No importance matrix: every weight counts as its own size says.

    Raises:
        ToolError: the program failed.
    """
    layout: Layout = {**BLOCKS, **SUPER_BLOCKS}[name]
    with tempfile.TemporaryDirectory(prefix="slipway-lesson-") as folder:
        source, made = Path(folder) / "one.gguf", Path(folder) / "made.gguf"
        _write(source, weights)
        program = tools.program("llama-quantize")
        process.run([program, "--pure", source, made, _FILE_TYPES.get(name, name)])
        size = weights.size // layout.block * layout.nbytes
        # the only tensor of the file is its end, padded to the alignment
        padding = -size % _ALIGNMENT
        with made.open("rb") as file:
            file.seek(-(size + padding), 2)
            data = np.frombuffer(file.read(size), dtype=np.uint8)
    return data.reshape(len(weights), -1)


def _write(path: Path, weights: Floats) -> None:
    """A GGUF with one fp32 tensor, and the few keys without which it would not be opened."""
    rows, columns = weights.shape
    numbers = {
        "context_length": 32,
        "embedding_length": columns,
        "block_count": 1,
        "feed_forward_length": rows,
        "attention.head_count": 1,
    }
    keys = [_text("general.architecture") + struct.pack("<I", 8) + _text("llama")]
    keys += [_text(f"llama.{key}") + struct.pack("<II", 4, n) for key, n in numbers.items()]
    keys.append(
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
    )
    tensor = _text(_NAME) + struct.pack("<I2QIQ", 2, columns, rows, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    with path.open("wb") as file:
        file.write(head + b"\0" * (-len(head) % _ALIGNMENT))
        file.write(np.ascontiguousarray(weights, dtype="<f4").data)
        file.write(b"\0" * (-weights.nbytes % _ALIGNMENT))


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
