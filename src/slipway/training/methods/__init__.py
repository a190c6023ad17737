"""Methods: which weights of a model are trained, how they are stepped, and what a run keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training.begun import adapter_folder
from slipway.training.methods.adapter import AdapterTuned, LoraTuned, OftTuned, as_new
from slipway.training.methods.base import Artefact, ParamGroup, Tuned
from slipway.training.methods.noise import add_noise
from slipway.training.methods.optimizer import make_optimizer
from slipway.training.methods.scored import ScoredTuned
from slipway.training.methods.whole import WholeTuned, freeze, full
from slipway.training.spec import TrainSpec

__all__ = [
    "AdapterTuned",
    "Artefact",
    "ParamGroup",
    "ScoredTuned",
    "Tuned",
    "WholeTuned",
    "as_new",
    "attach",
    "load_dtype",
    "make_optimizer",
]


def load_dtype(spec: TrainSpec, dtype: torch.dtype) -> torch.dtype:
    """The number format to load the base in: `full` trains every weight, in fp32."""
    return torch.float32 if spec.method == "full" else dtype


def attach(model: Any, spec: TrainSpec, dtype: torch.dtype) -> Tuned:
    """Put a recipe's method on a loaded base.

    Args:
        dtype: what products are computed in.

    Raises:
        UsageError: the method does not fit the model.
        InputError: the adapter to go on from does not.
    """
    begin = adapter_folder(Path(spec.adapter)) if spec.adapter else None
    tuned = _attach(model, spec, dtype, begin)
    if spec.stage == "rm":
        tuned = ScoredTuned(tuned)
    if spec.neftune_alpha is not None:
        add_noise(model, spec.neftune_alpha)
    return tuned


def _attach(model: Any, spec: TrainSpec, dtype: torch.dtype, begin: Path | None) -> Tuned:
    if begin is not None and spec.method in ("full", "freeze"):
        raise UsageError(
            "train.adapter_method",
            tr("`adapter` cannot be gone on with by `method: {method}`", method=spec.method),
            tr("merge it with `slipway merge`, and give the merged model as `model`"),
        )
    if spec.quant.bits and spec.method in ("full", "freeze"):
        raise UsageError(
            "train.quantised_method",
            tr("a quantised base cannot be trained by `method: {method}`", method=spec.method),
            tr("use `method: lora`, or take `quant.bits` out"),
        )
    match spec.method:
        case "full":
            return full(model, dtype)
        case "freeze":
            return freeze(model, spec.freeze, dtype)
        case "oft":
            return OftTuned(model, spec.oft, begin)
        case _:
            _require_aware(spec)
            return LoraTuned(model, spec.lora, begin, spec.quant_aware)


def _require_aware(spec: TrainSpec) -> None:
    """Refuse what quantisation-aware training does not go with.

    Raises:
        UsageError: naming both keys.
    """
    if spec.quant_aware is None:
        return
    others = {
        f"quant.bits: {spec.quant.bits}": spec.quant.bits,
        "lora.dora": spec.lora.dora,
        f"lora.dropout: {spec.lora.dropout}": spec.lora.dropout,
        "stage: rm": spec.stage == "rm",
    }
    for key, given in others.items():
        if given:
            raise UsageError(
                "train.quant_aware",
                tr("`quant_aware` does not go with `{key}`", key=key),
                tr("take one of them out"),
            )
