"""Objectives: what a stage learns from a unit of its data, as a loss with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.datasets import Encoded
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, Objective, StepSums
from slipway.training.objectives.next_token import NextToken
from slipway.training.spec import TrainSpec

__all__ = ["EvalResult", "Objective", "StepSums", "make_objective"]


def make_objective(
    spec: TrainSpec, tuned: Tuned, rows: Sequence[Encoded], heldout: Sequence[Encoded]
) -> Objective:
    """The objective of a recipe's stage over encoded rows."""
    return NextToken(tuned, rows, heldout, spec.pack_tokens)
