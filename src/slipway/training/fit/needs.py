"""Bytes that training and inference need, from a model's shape: pure functions.

These are rules for choosing before anything is downloaded; `slipway train --dry-run` measures.
"""

from __future__ import annotations

from typing import Literal

from slipway.training.fit.shape import ModelShape, adapter_weights, count

Method = Literal["full", "freeze", "lora", "qlora-8", "qlora-4"]
METHODS: tuple[Method, ...] = ("full", "freeze", "lora", "qlora-8", "qlora-4")
# bits for each weight: llama.cpp's own table for Llama-3.1-8B (tools/quantize/README.md)
PRECISIONS: dict[str, float] = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.56,
    "Q5_K_M": 5.70,
    "Q4_K_M": 4.89,
    "Q3_K_M": 4.00,
    "Q2_K": 3.16,
}
RANK = 16
FREEZE_LAYERS = 2
_TRAINED_BYTES = 16  # fp32 weight, gradient, two moments
_PROCESS_BYTES = 600_000_000
_ENGINE_BYTES = 250_000_000
_CHUNK_ROWS = 256  # rows of the output head that are computed at once
_BATCH_ROWS = 512  # rows whose logits llama.cpp keeps
# numbers that a layer keeps for backward, for each token and each unit of width; measured by
# `slipway.training.estimate` on Llama and Qwen shapes
_PER_HIDDEN, _PER_INTERMEDIATE = 8, 4


def training_bytes(
    shape: ModelShape, method: Method, *, base_bytes: int, tokens: int, checkpointing: bool = False
) -> int:
    """Peak bytes of training.

    Args:
        base_bytes: bytes of a frozen weight: 2 (bf16) or 4 (fp32).
        tokens: tokens computed at once.
        checkpointing: activations are computed twice instead of kept.
    """
    found = count(shape)
    frozen, trained = float(found.total), 0
    if method == "full":
        frozen, trained = 0.0, found.total
    elif method == "freeze":
        trained = min(FREEZE_LAYERS, shape.layers) * found.layer_linear
        frozen -= trained
    else:
        trained = adapter_weights(shape, RANK)
    held = frozen * base_bytes
    if method == "qlora-4":  # 4 bits, and scales that are quantised too
        held = found.linear * 0.52 + (found.total - found.linear) * base_bytes
    elif method == "qlora-8":
        held = found.linear * 1.01 + (found.total - found.linear) * base_bytes
    layers = shape.layers
    if method == "freeze":
        layers = min(FREEZE_LAYERS, shape.layers)  # nothing is kept below the lowest trained layer
    kept = _layer_numbers(shape) * layers
    if checkpointing:
        kept = _layer_numbers(shape) + shape.hidden * layers
    activations = kept * tokens * base_bytes
    logits = 2 * _CHUNK_ROWS * shape.vocab * base_bytes
    return int(_PROCESS_BYTES + held + trained * _TRAINED_BYTES + activations + logits)


def _layer_numbers(shape: ModelShape) -> int:
    """Numbers a layer keeps for each token."""
    width = shape.intermediate
    if shape.experts:
        width = shape.active_experts * shape.expert_width + shape.shared_width
    heads = 0
    if shape.kv_rank:  # whole keys, queries and values of many heads
        heads = shape.heads * (2 * (shape.head_dim + shape.rope_dim) + shape.v_dim)
    return _PER_HIDDEN * shape.hidden + _PER_INTERMEDIATE * width + heads


def kv_bytes(shape: ModelShape, context: int) -> int:
    """Bytes of the fp16 KV cache of one conversation of `context` tokens."""
    if shape.kv_rank:  # latent attention keeps the compressed keys and values
        return 2 * shape.layers * (shape.kv_rank + shape.rope_dim) * context
    return 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim * context


def inference_bytes(shape: ModelShape, precision: str, context: int) -> int:
    """Bytes of serving one conversation of `context` tokens by llama.cpp."""
    weights = count(shape).total * PRECISIONS[precision] / 8
    logits = 4 * _BATCH_ROWS * shape.vocab
    return int(weights + kv_bytes(shape, context) + logits + _ENGINE_BYTES)
