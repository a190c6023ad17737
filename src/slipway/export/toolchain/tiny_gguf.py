"""Write a tiny random Llama as GGUF, for the self-test. Run as a program: `tiny_gguf.py OUT`.

It runs in its own process with the toolchain's `gguf-py` on PYTHONPATH, so that it needs nothing
but numpy. Shapes: hidden 256 (one K-quant block per row), 2 layers, 4 heads of 64, feed-forward
512, vocabulary 512 (byte tokens and made-up words), 1.2 million weights, float32.
"""

from __future__ import annotations

import sys

HIDDEN, LAYERS, HEADS, FEED_FORWARD, VOCABULARY = 256, 2, 4, 512, 512


def write(path: str, seed: int = 0) -> None:
    """Write the model to `path`; the same seed gives the same bytes."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("slipway self-test")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"w{index}" for index in range(VOCABULARY - len(words))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (VOCABULARY - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    random = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns)) / np.sqrt(columns)
        writer.add_tensor(name, values.astype(np.float32))

    matrix("token_embd.weight", VOCABULARY, HIDDEN)
    matrix("output.weight", VOCABULARY, HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "output"):
            matrix(f"blk.{layer}.attn_{part}.weight", HIDDEN, HIDDEN)
        matrix(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, HIDDEN)
        matrix(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, HIDDEN)
        matrix(f"blk.{layer}.ffn_down.weight", HIDDEN, FEED_FORWARD)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1])
