"""Hugging Face folder -> GGUF and PEFT adapter -> GGUF adapter, by llama.cpp's own converters."""

from slipway.export.convert.formats import native_outtype
from slipway.export.convert.model import GGUF_NAME, convert_to_gguf, gguf_files
from slipway.export.convert.options import Split
from slipway.export.convert.space import disk_full, require_space

__all__ = [
    "GGUF_NAME",
    "Split",
    "convert_to_gguf",
    "disk_full",
    "gguf_files",
    "native_outtype",
    "require_space",
]
