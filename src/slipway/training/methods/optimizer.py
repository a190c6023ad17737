"""The optimiser of a recipe, over the weights that its method trains."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from slipway.core.errors import UsageError, missing_extra
from slipway.core.i18n import tr
from slipway.training.methods.base import Tuned
from slipway.training.methods.several import Several, WithProjectors
from slipway.training.quantised import bitsandbytes
from slipway.training.spec import TrainSpec

# LLaMA Factory's own defaults, as a recipe has no keys for them
_RANK = 16
GALORE = {"rank": _RANK, "update_proj_gap": 200, "scale": 2.0, "projection_type": "std"}
_PACKED_FROM = 4096  # bitsandbytes keeps the state of smaller tensors in fp32


def make_optimizer(spec: TrainSpec, tuned: Tuned) -> Any:
    """The optimiser; each of its groups has `lr_ratio`, by which the schedule's rate is taken.

    Raises:
        UsageError: it is not for this method.
        ResourceError: its package is not installed.
    """
    groups = _groups(spec, tuned)
    rate = {"lr": spec.learning_rate}
    adam = {**rate, "betas": (spec.adam_beta1, spec.adam_beta2), "eps": spec.adam_epsilon}
    match spec.optimizer:
        case "adamw_8bit":
            return bitsandbytes().optim.AdamW8bit(groups, **adam)
        case "adafactor":
            from transformers.optimization import Adafactor

            # the schedule's rate as it is, as transformers' own Trainer has it
            return Adafactor(groups, **rate, scale_parameter=False, relative_step=False)
        case "sgd":
            return torch.optim.SGD(groups, **rate)
        case "muon":
            wide, narrow = _parted(groups, tuned)
            # rates of the size that AdamW wants (Liu et al. 2025, arXiv 2502.16982)
            muon = [torch.optim.Muon(wide, **rate, adjust_lr_fn="match_rms_adamw")] if wide else []
            rest = [torch.optim.AdamW(narrow, **adam, fused=True)] if narrow else []
            return Several([*muon, *rest])
        case "galore":
            return _galore(spec, groups, tuned, adam)
        case _:
            return torch.optim.AdamW(groups, **adam, fused=True)


def _groups(spec: TrainSpec, tuned: Tuned) -> list[dict[str, Any]]:
    return [
        {
            "params": list(group.parameters),
            "lr_ratio": group.lr_ratio,
            "weight_decay": spec.weight_decay if group.decayed else 0.0,
        }
        for group in tuned.groups()
    ]


def _galore(
    spec: TrainSpec, groups: list[dict[str, Any]], tuned: Tuned, adam: dict[str, Any]
) -> Any:
    """Zhao et al. 2024 (arXiv 2403.03507): the moments of matrices are kept in a subspace."""
    if spec.method in ("lora", "oft"):
        raise UsageError(
            "train.optimizer_method",
            tr("`optimizer: {name}` is for weights trained whole, not for adapters", name="galore"),
            tr("use `method: full` or `freeze`, or another optimiser"),
        )
    if importlib.util.find_spec("pytorch_optimizer") is None:
        raise missing_extra("pytorch_optimizer", "galore")
    from pytorch_optimizer.optimizer.galore import GaLore

    wide, narrow = _parted(groups, tuned)
    return WithProjectors(GaLore([*({**group, **GALORE} for group in wide), *narrow], **adam))


def _parted(
    groups: list[dict[str, Any]], tuned: Tuned
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The groups' matrices inside the decoder's layers, and all the rest."""
    outside = _outside(tuned.model)

    def only(inside: bool) -> list[dict[str, Any]]:
        picked = [
            {**group, "params": [p for p in group["params"] if _inside(p, outside) == inside]}
            for group in groups
        ]
        return [group for group in picked if group["params"]]

    return only(True), only(False)


def _outside(model: Any) -> set[int]:
    """Embedding and output head, whose rows are tokens and no directions of a map."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return {id(part.weight) for part in parts if part is not None}


def _inside(parameter: nn.Parameter, outside: set[int]) -> bool:
    return parameter.ndim == 2 and id(parameter) not in outside


def state_bytes(spec: TrainSpec, tuned: Tuned) -> int:
    """What the optimiser's state will take, by the shapes of what is trained."""
    outside = _outside(tuned.model)
    return sum(_bytes(spec, p, _inside(p, outside)) for p in tuned.parameters)


def _bytes(spec: TrainSpec, parameter: nn.Parameter, inside: bool) -> int:
    count, shape = int(parameter.numel()), [int(size) for size in parameter.shape]
    match spec.optimizer:
        case "adamw_8bit" if count >= _PACKED_FROM:
            return 2 * count + 8 * count // 256
        case "adafactor" if len(shape) >= 2:
            return 4 * count * (shape[-1] + shape[-2]) // (shape[-1] * shape[-2])
        case "adafactor":
            return 4 * count
        case "sgd":
            return 0
        case "muon" if inside:
            return 4 * count
        case "galore" if inside:
            small, large = sorted(shape)
            return 4 * min(_RANK, small) * (small + 2 * large)
    return 8 * count
