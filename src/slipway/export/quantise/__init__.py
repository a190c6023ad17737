"""GGUF -> smaller GGUF by llama.cpp's own quantiser: types, mixes, importance, search.

Importing this package imports none of its parts: the toolchain's self-test uses one of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.export.quantise.kld import KldSearch, Measured, find_for_kld
    from slipway.export.quantise.mix import Mix, Target, find_mix
    from slipway.export.quantise.options import Options, parse_options
    from slipway.export.quantise.plan import Plan
    from slipway.export.quantise.run import plan_quantize, quantize
    from slipway.export.quantise.source import require_gguf
    from slipway.export.quantise.type_names import check_types, parse_types, quant_types

_MODULES = {
    "KldSearch": "kld",
    "Measured": "kld",
    "Mix": "mix",
    "Options": "options",
    "Plan": "plan",
    "Target": "mix",
    "check_types": "type_names",
    "find_for_kld": "kld",
    "find_mix": "mix",
    "parse_options": "options",
    "parse_types": "type_names",
    "plan_quantize": "run",
    "quant_types": "type_names",
    "quantize": "run",
    "require_gguf": "source",
}

__all__ = [
    "KldSearch",
    "Measured",
    "Mix",
    "Options",
    "Plan",
    "Target",
    "check_types",
    "find_for_kld",
    "find_mix",
    "parse_options",
    "parse_types",
    "plan_quantize",
    "quant_types",
    "quantize",
    "require_gguf",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"slipway.export.quantise.{_MODULES[name]}"), name)
    raise AttributeError(name)
