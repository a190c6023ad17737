"""Objectives: what a stage learns from a unit of its data, as a loss with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

from slipway.datasets import Encoded
from slipway.training.methods import Tuned
from slipway.training.objectives.base import EvalResult, Objective, Setting, StepSums
from slipway.training.objectives.next_token import NextToken
from slipway.training.sharing import shares
from slipway.training.spec import TrainSpec

__all__ = ["EvalResult", "Objective", "Setting", "StepSums", "make_objective"]


def make_objective(
    spec: TrainSpec,
    tuned: Tuned,
    rows: Sequence[Encoded],
    heldout: Sequence[Encoded],
    setting: Setting | None = None,
) -> Objective:
    """The objective of a recipe's stage over encoded rows.

    Args:
        setting: the run around it; default: none, and nothing is kept.
    """
    setting = setting or Setting()
    match spec.stage:
        case "dpo":
            from slipway.training.objectives.make import preference

            return preference(spec, tuned, rows, heldout, setting)
        case "kto":
            from slipway.training.objectives.make import feedback

            return feedback(spec, tuned, rows, heldout, setting)
        case "rm":
            from slipway.training.objectives.reward import Reward

            return Reward(tuned, rows, heldout, spec.pack_tokens)
        case "rloo" | "grpo":
            from slipway.training.objectives.make import reinforce

            return reinforce(spec, tuned, rows, heldout)
        case _:
            return NextToken(
                tuned,
                rows,
                heldout,
                spec.pack_tokens,
                lean=shares(spec),
                in_step=setting.in_step,
            )
