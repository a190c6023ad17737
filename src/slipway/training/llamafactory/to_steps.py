"""Batches, steps, rates and number formats: from LLaMA Factory's keys to ours."""

from __future__ import annotations

import os

from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.training.llamafactory.draft import Draft

_SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup",
    "cosine_with_min_lr": "cosine_with_min_lr",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
}
_OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "muon": "muon",
}
_NO_LIMIT = 1e30  # a gradient norm that nothing reaches
_POLYNOMIAL_END = 1e-7  # transformers' `lr_end`


def put_steps(draft: Draft) -> None:
    """Decide everything about the optimiser's steps."""
    _batch(draft)
    _length(draft)
    _schedule(draft)
    _optimizer(draft)
    _formats(draft)
    draft.copy("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    draft.copy("seed", "neftune_noise_alpha")
    norm = draft.values.number("max_grad_norm")
    draft.put("max_grad_norm", norm or _NO_LIMIT, "max_grad_norm")


def _batch(draft: Draft) -> None:
    """Rows of one step over all processes; with packing LLaMA Factory counts full packs instead."""
    values = draft.values
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows = values.whole(keys[0]) * values.whole(keys[1]) * world
    packing = values.flag("packing") if values.has("packing") else values.text("stage") == "pt"
    packing = packing or values.flag("neat_packing")
    if packing:
        draft.put("batch_tokens", rows * values.whole("cutoff_len"), *keys, "packing", "cutoff_len")
        draft.note(
            tr(
                "packing: a step holds {n} packs of {cutoff} tokens, as {tokens} tokens; rows of a "
                "pack never see each other",
                n=rows,
                cutoff=values.whole("cutoff_len"),
                tokens=rows * values.whole("cutoff_len"),
            )
        )
    else:
        draft.put("batch_rows", rows, *keys, "packing")


def _length(draft: Draft) -> None:
    """`max_steps` above 0 is the exact number of steps there, whatever the epochs."""
    values = draft.values
    steps = values.whole("max_steps")
    if steps > 0:
        draft.put("max_steps", steps, "max_steps")
        draft.put("epochs", float(steps), "max_steps", "num_train_epochs")
    else:
        draft.put("epochs", values.get("num_train_epochs"), "num_train_epochs")


def _schedule(draft: Draft) -> None:
    values = draft.values
    name = values.text("lr_scheduler_type")
    if name not in _SCHEDULES:
        raise draft.refuse(
            "lr_scheduler_type",
            tr("that schedule is not offered"),
            tr("use one of {names}", names=", ".join(_SCHEDULES)),
        )
    draft.put("schedule", _SCHEDULES[name], "lr_scheduler_type")
    _last_rate(draft, name)
    steps, ratio = values.number("warmup_steps"), values.number("warmup_ratio")
    if name == "constant":  # transformers' constant schedule has no warm-up
        steps, ratio = 0, 0.0
    if 0 < steps < 1:  # as transformers 5 has it
        steps, ratio = 0, steps
    draft.put("warmup_ratio", 0.0 if steps else ratio, "warmup_ratio", "warmup_steps")
    if steps:
        draft.put("warmup_steps", int(steps), "warmup_steps")


def _last_rate(draft: Draft, name: str) -> None:
    values = draft.values
    extra = values.get("lr_scheduler_kwargs") or {}
    if not isinstance(extra, dict):
        raise values.wrong("lr_scheduler_kwargs", tr("must be a mapping"))
    peak = values.number("learning_rate")
    known = {
        "cosine_with_min_lr": {"min_lr", "min_lr_rate"},
        "polynomial": {"lr_end", "power"},
    }.get(name, set())
    left = [f"{key}: {value}" for key, value in extra.items() if key not in known]
    if float(extra.get("power", 1.0)) != 1.0:
        left.append(f"power: {extra['power']}")
    if left:
        raise draft.refuse("lr_scheduler_kwargs", tr("{name} is not read", name=", ".join(left)))
    ratio = float(extra.get("min_lr_rate", 0.0))
    if name == "cosine_with_min_lr" and "min_lr" in extra:
        ratio = float(extra["min_lr"]) / peak
    if name == "polynomial":
        ratio = float(extra.get("lr_end", _POLYNOMIAL_END)) / peak
    draft.put("min_lr_ratio", ratio, "lr_scheduler_kwargs", "lr_scheduler_type")


def _optimizer(draft: Draft) -> None:
    values = draft.values
    for key in ("galore", "muon"):
        if values.flag(f"use_{key}"):
            draft.put("optimizer", key, f"use_{key}")
            return
    name = values.text("optim")
    if name not in _OPTIMIZERS:
        raise draft.refuse(
            "optim",
            tr("that optimiser is not offered"),
            tr("use one of {names}", names=", ".join(_OPTIMIZERS)),
        )
    draft.put("optimizer", _OPTIMIZERS[name], "optim")


def _formats(draft: Draft) -> None:
    values = draft.values
    if values.flag("fp16") and probe().accelerators:
        draft.put("dtype", "fp16", "fp16")
    else:
        draft.put("dtype", "auto", "bf16", "fp16", "pure_bf16")
        if values.flag("fp16"):
            draft.note(tr("`fp16`: it has no hardware here; `dtype: auto` is used"))
    if values.flag("pure_bf16"):
        draft.note(tr("`pure_bf16`: the trained weights stay in fp32, which is never worse"))
    checkpointing = "auto"
    if values.flag("disable_gradient_checkpointing"):
        checkpointing = "off"
    elif values.flag("gradient_checkpointing"):
        checkpointing = "on"
    keys = ("disable_gradient_checkpointing", "gradient_checkpointing")
    draft.put("checkpointing", checkpointing, *keys)
    draft.put("compile", "on" if values.flag("torch_compile") else "auto", "torch_compile")
