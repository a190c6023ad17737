"""`estimate`: memory and time of a run on this machine, before any weight is loaded.

The base's own code is built with two numbers of layers and made-up weights, and one pack of the
run's own rows goes through each. Memory and time are straight lines in the number of layers, so
two points give both; embedding, head and loss are the lines' beginning.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from slipway.datasets import Encoded
from slipway.training.estimate.parts import Estimate, Memory, Seconds, Work
from slipway.training.estimate.probe import Cost, measure
from slipway.training.estimate.skeleton import (
    build,
    numbers,
    read_config,
    weight_bytes,
    with_layers,
)
from slipway.training.spec import TrainSpec

_READ_BYTES_S = 8e8  # from a disk or its cache, converted
_START_S = 1.5  # finding the model's code, the proof of the loss, the manifest
_FINISH_S = 1.5
_SAVE_BYTES_S = 3e8


def estimate(
    spec: TrainSpec,
    base: Path,
    rows: Sequence[Encoded],
    work: Work,
    process_bytes: int | None = None,
) -> Estimate:
    """Memory and seconds of a run.

    Args:
        rows: the training rows; those that `work` names go through the made-up model.
        process_bytes: what the process occupies without model; default: now.

    Raises:
        InputError: the base's config is not usable.
        UsageError: the method does not fit the model.
    """
    from slipway.training.model import pick_device, pick_dtype, set_threads

    set_threads(spec.threads)
    device = pick_device()
    dtype = pick_dtype(spec.dtype, device)
    before = process_bytes or int(psutil.Process().memory_info().rss)
    config = read_config(base)
    whole = build(config, dtype, torch.device("meta"))
    attach(whole, spec)
    weights, trained = numbers(whole)
    here, there = _two(spec, config)
    layers = int(config.num_hidden_layers)
    near = _cost(spec, config, here, rows, work, dtype, device)
    far = _cost(spec, config, there, rows, work, dtype, device) if there != here else near
    cost = near.at(far, here, there, layers) if there != here else near
    memory = _memory(spec, whole, cost, near, trained, before, base)
    return Estimate(memory, _seconds(cost, rows, work, base, trained), work, weights, trained)


def attach(model: Any, spec: TrainSpec) -> None:
    """Put the method on a model, as a run would."""
    from slipway.training import lora

    lora.attach(model, **spec.lora.model_dump(include={"rank", "alpha", "dropout", "target"}))


def _two(spec: TrainSpec, config: Any) -> tuple[int, int]:
    """Two numbers of layers between which the cost of a layer is that of the whole model."""
    layers = int(config.num_hidden_layers)
    first = max(1, int(getattr(config, "first_k_dense_replace", 0) or 0) + 1)
    if spec.method == "freeze":
        first = max(first, abs(spec.freeze.layers))
    first = min(first, layers)
    return first, min(first + 2, layers)


def _cost(
    spec: TrainSpec,
    config: Any,
    layers: int,
    rows: Sequence[Encoded],
    work: Work,
    dtype: torch.dtype,
    device: torch.device,
) -> Cost:
    from slipway.training.batch import batches, losses

    state = torch.get_rng_state()
    model = build(with_layers(config, layers), dtype, device)
    attach(model, spec)
    largest = batches([rows[i] for i in work.probe], 1 << 30, device)
    typical = batches([rows[i] for i in work.typical], spec.pack_tokens, device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def learn(packs: Any) -> None:
        for _, batch in packs:
            losses(model, batch, 1e-3).sum().backward()

    def read() -> None:
        for _, batch in typical:
            losses(model, batch)

    try:
        return measure(model, lambda: learn(largest), lambda: learn(typical), read, optimizer)
    finally:
        torch.set_rng_state(state)
        gc.collect()


def _memory(
    spec: TrainSpec, whole: Any, cost: Cost, near: Cost, trained: int, process: int, base: Path
) -> Memory:
    weights = weight_bytes(whole)
    gradients, optimizer = 4 * trained, _OPTIMIZER_BYTES[spec.optimizer] * trained
    head = max(0, int(near.bytes - 4 * near.trained))
    activations = max(0, int(cost.bytes - 4 * cost.trained) - head)
    packed = 0
    training = packed + gradients + optimizer + activations + head
    stored = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    largest = max((path.stat().st_size for path in base.glob("*.safetensors")), default=0)
    loading = max(0, min(stored, largest) - training)
    return Memory(
        process=process,
        weights=weights,
        packed=packed,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=head,
        loading=loading,
    )


# bytes of state for each trained weight
_OPTIMIZER_BYTES = {
    "adamw": 8,
    "adamw_8bit": 2,
    "adafactor": 0,
    "sgd": 0,
    "galore": 2,
    "apollo": 2,
    "muon": 4,
}


def _seconds(cost: Cost, rows: Sequence[Encoded], work: Work, base: Path, trained: int) -> Seconds:
    tokens = sum(len(rows[i].input_ids) for i in work.typical)
    per_step = cost.step_s / tokens * work.step_tokens + cost.update_s * trained / max(
        cost.trained, 1
    )
    stored = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return Seconds(
        loading=_START_S + stored / _READ_BYTES_S,
        steps=work.steps * per_step,
        evals=work.evals * work.eval_tokens * cost.eval_s / tokens,
        saves=_FINISH_S + work.saves * (0.05 + 12 * trained / _SAVE_BYTES_S),
    )
