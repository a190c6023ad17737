"""Activation checkpointing: of a layer only the input is kept, and backward computes it again.

A third more work for a small part of the memory. The second pass repeats the first one bit for bit
(dropout included), so a run may switch between both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.events import read_events
from slipway.core.i18n import tr
from slipway.training.estimate.parts import Estimate
from slipway.training.spec import TrainSpec


def compute_twice(model: Any) -> None:
    """Let the layers of a model keep their inputs only, while it trains.

    Raises:
        UsageError: the model's code cannot.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UsageError(
            "train.no_checkpointing",
            tr("this model family cannot compute its activations twice"),
            tr("set `checkpointing: off` and a smaller `pack_tokens`"),
        )
    # not the re-entrant kind: it wants inputs with a gradient, and frozen layers may have none
    kinds = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name in newer transformers
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kinds)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kinds)


def is_wanted(spec: TrainSpec, foreseen: Estimate | None, events: Path) -> bool:
    """Whether a run computes activations twice.

    Args:
        foreseen: for `auto`: what the run needs; None for a run that goes on, which does as it did.
        events: the run's own.
    """
    if spec.checkpointing != "auto":
        return spec.checkpointing == "on"
    if foreseen is not None:
        return foreseen.checkpointing
    told = [event for event in read_events(events, "log") if "checkpointing" in event]
    return bool(told and told[-1]["checkpointing"])
