"""What an FSDP file of accelerate or a DeepSpeed file asks for, as far as it concerns splitting.

Both describe one thing by other words: whether every process keeps all weights (ZeRO 0 to 2,
NO_SHARD, SHARD_GRAD_OP) or a part of each (ZeRO 3, FULL_SHARD), and whether that part waits in the
machine's memory (offload). Here torch's `fully_shard` does it. What else such files hold is decided
by the recipe (precision, batch, optimiser) and is told; what would change the result is refused.

Facts: https://huggingface.co/docs/accelerate/usage_guides/fsdp and
https://www.deepspeed.ai/docs/config-json/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slipway.core.errors import InputError, UsageError, from_os_error
from slipway.core.i18n import Text, tr
from slipway.training.spec import TrainSpec

_FULL = {"FULL_SHARD": True, "HYBRID_SHARD": True, "1": True, "4": True}
_KEPT = {"SHARD_GRAD_OP": False, "HYBRID_SHARD_ZERO2": False, "2": False, "5": False}
_WHOLE = ("NO_SHARD", "3")


@dataclass(frozen=True, slots=True)
class Sharding:
    """How weights, gradients and the optimiser's state are split.

    Attributes:
        where: the file that asks.
        split: whether anything is split; else every process holds all.
        reshard: a layer's weights are given up after forward and gathered again in backward.
        offload: the split weights wait in the machine's memory (CUDA).
        notes: what of the file has no effect here.
    """

    where: str
    split: bool
    reshard: bool = True
    offload: bool = False
    notes: tuple[Text, ...] = ()


def read_sharding(spec: TrainSpec) -> Sharding | None:
    """What the recipe's `fsdp` or `deepspeed` file asks for; None without one.

    Raises:
        UsageError: both are given, or the file asks for something that is not done here.
        InputError: the file cannot be read.
    """
    if spec.fsdp and spec.deepspeed:
        raise UsageError(
            "train.two_shardings",
            tr("`fsdp` and `deepspeed` both split the model"),
            tr("take one of them out of the recipe"),
        )
    if spec.fsdp:
        return _fsdp(spec.fsdp, _read(Path(spec.fsdp)))
    if spec.deepspeed:
        return _deepspeed(spec.deepspeed, _read(Path(spec.deepspeed)))
    return None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise from_os_error(error, path) from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            "train.bad_sharding",
            tr("{path} cannot be read: {reason}", path=str(path), reason=str(error)),
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            "train.bad_sharding",
            tr("{path} must hold keys and values", path=str(path)),
            tr("give accelerate's FSDP file or a DeepSpeed file"),
        )
    return value


def _fsdp(where: str, value: Mapping[str, Any]) -> Sharding:
    if str(value.get("distributed_type", "FSDP")).upper() not in ("FSDP", "MULTI_GPU"):
        raise _refused(where, "distributed_type", value["distributed_type"])
    inner = value.get("fsdp_config", value)
    asked = inner.get("fsdp_reshard_after_forward", inner.get("fsdp_sharding_strategy", True))
    name = str(asked).upper()
    known = {"TRUE": True, "FALSE": False, **_FULL, **_KEPT}
    if name in _WHOLE:
        return Sharding(where, False)
    if name not in known:
        raise _refused(where, "fsdp_reshard_after_forward", asked)
    notes = [_no_effect(where, key) for key in inner if key not in _FSDP_OBEYED]
    offload = bool(inner.get("fsdp_offload_params", False))
    return Sharding(where, True, known[name], offload, tuple(notes))


def _deepspeed(where: str, value: Mapping[str, Any]) -> Sharding:
    for key in ("optimizer", "scheduler"):
        if key in value:
            raise UsageError(
                "train.sharding_refused",
                tr("{path}: `{key}` would decide what the recipe decides", path=where, key=key),
                tr("take it out of the file; the recipe has `optimizer` and `schedule`"),
            )
    zero = value.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise _refused(where, "zero_optimization.stage", stage)
    away = [zero.get(key, {}).get("device", "none") for key in ("offload_param",)]
    if "nvme" in away:
        raise _refused(where, "zero_optimization.offload_param.device", "nvme")
    notes = [_no_effect(where, key) for key in value if key not in _ZERO_OBEYED]
    # stages 1 and 2 split what a step needs beside the weights: so does keeping gathered weights
    return Sharding(where, stage > 0, stage == 3, "cpu" in away, tuple(notes))


_FSDP_OBEYED = (
    "fsdp_reshard_after_forward",
    "fsdp_sharding_strategy",
    "fsdp_offload_params",
    "fsdp_version",
    "fsdp_auto_wrap_policy",
    "fsdp_transformer_layer_cls_to_wrap",
)
_ZERO_OBEYED = ("zero_optimization",)


def _no_effect(where: str, key: str) -> Text:
    return tr("{path}: `{key}` has no effect; the recipe decides", path=where, key=key)


def _refused(where: str, key: str, value: object) -> UsageError:
    return UsageError(
        "train.sharding_refused",
        tr("{path}: `{key}: {value}` is not done here", path=where, key=key, value=value),
        tr("see docs/distributed.md for what is"),
    )
