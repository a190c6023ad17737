"""Methods: which weights of a model are trained, how they are stepped, and what a run keeps."""

from __future__ import annotations

from typing import Any

import torch

from slipway.training.methods.adapter import LoraTuned
from slipway.training.methods.base import Artefact, ParamGroup, Tuned
from slipway.training.methods.optimizer import make_optimizer
from slipway.training.methods.whole import freeze, full
from slipway.training.spec import TrainSpec

__all__ = ["Artefact", "ParamGroup", "Tuned", "attach", "load_dtype", "make_optimizer"]


def load_dtype(spec: TrainSpec, dtype: torch.dtype) -> torch.dtype:
    """The number format to load the base in: `full` trains every weight, in fp32."""
    return torch.float32 if spec.method == "full" else dtype


def attach(model: Any, spec: TrainSpec, dtype: torch.dtype) -> Tuned:
    """Put a recipe's method on a loaded base.

    Args:
        dtype: what products are computed in.

    Raises:
        UsageError: the method does not fit the model.
    """
    match spec.method:
        case "full":
            return full(model, dtype)
        case "freeze":
            return freeze(model, spec.freeze, dtype)
        case _:
            return LoraTuned(model, spec.lora)
