"""The bytes that llama.cpp's own quantiser writes for one matrix."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from slipway.core import process
from slipway.core.gguf import read_gguf
from slipway.export.lesson.blocks import Bytes
from slipway.export.lesson.schemes import Floats
from slipway.export.toolchain import Toolchain


def quantised_by_tool(weights: Floats, kind: str, toolchain: Toolchain) -> Bytes:
    """The matrix in the format `kind`, (rows, bytes of a row).

    The quantiser takes whole models, so it is given the smallest that it accepts: one layer with
    this one matrix.

    Raises:
        ToolError: the quantiser failed.
    """
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "one.gguf", Path(folder) / "out.gguf"
        writer = gguf.GGUFWriter(source, "llama")
        writer.add_context_length(32)
        writer.add_embedding_length(weights.shape[1])
        writer.add_feed_forward_length(weights.shape[0])
        writer.add_block_count(1)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(32)
        writer.add_tensor("blk.0.ffn_up.weight", weights)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        process.run([toolchain.program("llama-quantize"), "--pure", source, target, kind])
        (tensor,) = read_gguf(target).tensors
        with target.open("rb") as file:
            file.seek(tensor.offset)
            data = np.frombuffer(file.read(tensor.nbytes), np.uint8)
    return data.reshape(weights.shape[0], -1)
