"""Hugging Face folder -> GGUF and PEFT adapter -> GGUF adapter, by llama.cpp's own converters."""

from slipway.export.convert.model import GGUF_NAME, convert_to_gguf
from slipway.export.convert.space import disk_full, require_space

__all__ = ["GGUF_NAME", "convert_to_gguf", "disk_full", "require_space"]
