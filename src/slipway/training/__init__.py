"""LoRA fine-tuning: recipes, the training loop, evaluation. torch is loaded only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.training.spec import LoraSpec, Resolved, TrainSpec, load_recipe

if TYPE_CHECKING:
    from slipway.training.evaluate import LossResult, evaluate_loss
    from slipway.training.run import RunResult, train

__all__ = [
    "LoraSpec",
    "LossResult",
    "Resolved",
    "RunResult",
    "TrainSpec",
    "evaluate_loss",
    "load_recipe",
    "train",
]

_LAZY = {
    "LossResult": "slipway.training.evaluate",
    "evaluate_loss": "slipway.training.evaluate",
    "RunResult": "slipway.training.run",
    "train": "slipway.training.run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(name)
