"""From a training run to files that an engine loads: merge, convert, quantise, compare.

Everything heavy (torch, transformers) is imported inside the functions; importing this package
imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.export.convert import convert_to_gguf
    from slipway.export.convert.adapter import convert_adapter
    from slipway.export.evaluation import EvalPlan, EvalResult, evaluate_models
    from slipway.export.merge import merge_run
    from slipway.export.proof import ProofResult, prove_tokenizer
    from slipway.export.quantise import quantize

_MODULES = {
    "EvalPlan": "evaluation",
    "EvalResult": "evaluation",
    "ProofResult": "proof",
    "convert_adapter": "convert.adapter",
    "convert_to_gguf": "convert",
    "evaluate_models": "evaluation",
    "merge_run": "merge",
    "prove_tokenizer": "proof",
    "quantize": "quantise",
}

__all__ = [
    "EvalPlan",
    "EvalResult",
    "ProofResult",
    "convert_adapter",
    "convert_to_gguf",
    "evaluate_models",
    "merge_run",
    "prove_tokenizer",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"slipway.export.{_MODULES[name]}"), name)
    raise AttributeError(name)
