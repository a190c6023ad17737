"""Tiny GGUF files for tests: a right header, tensors of zeros, and nothing an engine could load."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

_ALIGNMENT = 32
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    context_length: int = 2048,
    extra: dict[str, Any] | None = None,
    version: int = 3,
) -> Path:
    """Write a GGUF whose header describes a small model.

    Args:
        extra: more keys, or other values; None leaves a key out.
    """
    values: dict[str, Any] = {
        "general.architecture": architecture,
        "general.name": path.stem,
        "general.file_type": 15,
        f"{architecture}.context_length": context_length,
        f"{architecture}.embedding_length": 64,
        f"{architecture}.block_count": 2,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(1500)],
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
        **(extra or {}),
    }
    values = {key: value for key, value in values.items() if value is not None}
    shape = (64, 32)
    tensors = _string("token_embd.weight") + struct.pack("<I2QIQ", 2, *shape, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(values))
    head += b"".join(_string(key) + _value(value) for key, value in values.items()) + tensors
    padding = b"\0" * (-len(head) % _ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + padding + b"\0" * (shape[0] * shape[1] * 4))
    return path


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(v) for v in value)
    raise TypeError(value)
