"""The optimiser of a recipe, over the weights that its method trains."""

from __future__ import annotations

from typing import Any

import torch

from slipway.training.methods.base import Tuned
from slipway.training.spec import TrainSpec


def make_optimizer(spec: TrainSpec, tuned: Tuned) -> Any:
    """The optimiser; each of its groups has `lr_ratio`, by which the schedule's rate is taken."""
    groups = [
        {
            "params": list(group.parameters),
            "lr_ratio": group.lr_ratio,
            "weight_decay": spec.weight_decay if group.decayed else 0.0,
        }
        for group in tuned.groups()
    ]
    return torch.optim.AdamW(
        groups,
        lr=spec.learning_rate,
        betas=(spec.adam_beta1, spec.adam_beta2),
        eps=spec.adam_epsilon,
        fused=True,
    )
