"""Evaluation of any model on any set: losses, answers, choices, a judge, and how sure it all is.

Nothing heavy (torch, numpy, jieba) is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.evaluation.compare import compare_folders
    from slipway.evaluation.gates import Gates
    from slipway.evaluation.generation import Generation
    from slipway.evaluation.judge import Judge
    from slipway.evaluation.models import Model, find_model, served_model
    from slipway.evaluation.plan import ChoicePlan, Plan
    from slipway.evaluation.run import evaluate

_MODULES = {
    "ChoicePlan": "plan",
    "Gates": "gates",
    "Generation": "generation",
    "Judge": "judge",
    "Model": "models",
    "Plan": "plan",
    "compare_folders": "compare",
    "evaluate": "run",
    "find_model": "models",
    "served_model": "models",
}

__all__ = [
    "ChoicePlan",
    "Gates",
    "Generation",
    "Judge",
    "Model",
    "Plan",
    "compare_folders",
    "evaluate",
    "find_model",
    "served_model",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"slipway.evaluation.{_MODULES[name]}"), name)
    raise AttributeError(name)
