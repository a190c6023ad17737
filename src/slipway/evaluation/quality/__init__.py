"""The quality card: what each quantised level keeps of the model, costs, and saves.

`measure` makes the card, `advice` reads it, `gate` judges it, `draw` and `words` show it, `keep`
puts it beside the artefacts. `packed` measures bitsandbytes' INT8 and INT4 in the same terms.
Importing this package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slipway.evaluation.quality.gate import Gate, check_gate, require_gate
from slipway.evaluation.quality.model import QualityCard, QualityPlan

if TYPE_CHECKING:
    from slipway.evaluation.quality.measure import measure_quality

__all__ = [
    "Gate",
    "QualityCard",
    "QualityPlan",
    "check_gate",
    "measure_quality",
    "require_gate",
]


def __getattr__(name: str) -> Any:
    if name == "measure_quality":
        return import_module("slipway.evaluation.quality.measure").measure_quality
    raise AttributeError(name)
