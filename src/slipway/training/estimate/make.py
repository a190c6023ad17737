"""`estimate`: memory and time of a run on this machine, before any weight is loaded.

The base's own code is built with two numbers of layers and made-up weights, and one pack of the
run's own rows goes through each. Memory and time are straight lines in the number of layers, so
two points give both; embedding, head and loss are the lines' beginning.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from slipway.core.hardware import available_memory_bytes
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
from slipway.training.memory import bound_kernel_caches, give_back
from slipway.training.plan import LEAST_STEPS
from slipway.training.quantised import make_up, seconds_per_weight
from slipway.training.spec import TrainSpec

_READ_BYTES_S = 8e8  # from a disk or its cache, converted
_START_S = 1.5  # finding the model's code, the proof of the loss, the manifest
_FINISH_S = 1.5
_SAVE_BYTES_S = 3e8
# glibc's heap keeps what is freed between pieces that are in use
_HEAP_SLACK = 1.25
_CACHE_BYTES = 100_000_000  # more than the last cache of a core's neighbourhood
_LATE_BYTES = 150_000_000  # most that is loaded late: the model's code, kernels, threads
# what the bounded caches of oneDNN's kernels grow to in some 40 steps of ever new lengths
_KERNEL_BYTES = 300_000_000


def estimate(
    spec: TrainSpec,
    base: Path,
    rows: Sequence[Encoded],
    work: Work,
    *,
    process_bytes: int,
    started: float,
) -> Estimate:
    """Memory and seconds of a run.

    With `checkpointing: auto` activations are computed twice if they do not fit otherwise.

    Args:
        rows: the training rows; those that `work` names go through the made-up model.
        process_bytes: what the process occupies before any model.
        started: `time.perf_counter()` at the start of the run.

    Raises:
        InputError: the base's config is not usable.
        UsageError: the method does not fit the model.
    """
    bound_kernel_caches()  # the first product is computed here, not with the real model
    once = spec.model_copy(update={"checkpointing": "off"})
    twice = spec.model_copy(update={"checkpointing": "on"})
    given: dict[str, Any] = {"process_bytes": process_bytes, "started": started}
    if spec.checkpointing == "on":
        return _estimate(twice, base, rows, work, **given)
    found = _estimate(once, base, rows, work, **given)
    if spec.checkpointing == "auto" and found.memory.total > free_bytes(process_bytes):
        return _estimate(twice, base, rows, work, **given)
    return found


def free_bytes(process_bytes: int) -> int:
    """What a run may occupy in all: of the machine's memory, or of the first GPU's."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]) + process_bytes
    return available_memory_bytes() + process_bytes


def _estimate(
    spec: TrainSpec,
    base: Path,
    rows: Sequence[Encoded],
    work: Work,
    *,
    process_bytes: int,
    started: float,
) -> Estimate:
    from slipway.training.methods import as_new, attach, load_dtype
    from slipway.training.methods.optimizer import state_bytes
    from slipway.training.model import pick_device, pick_dtype, set_threads

    spec = as_new(spec)
    set_threads(spec.threads)
    device = pick_device()
    dtype = pick_dtype(spec.dtype, device)
    config = read_config(base)
    whole = build(config, load_dtype(spec, dtype), torch.device("meta"))
    if spec.quant.bits:
        make_up(whole, spec.quant)
    adapted = spec.method in ("lora", "oft") and not spec.quant.bits
    packed = _packed_bytes(whole) if adapted else 0
    held = state_bytes(spec, attach(whole, spec, dtype))
    weights, trained = numbers(whole)
    here, there = _two(spec, config, weight_bytes(whole))
    near = _cost(spec, config, here, rows, work, dtype, device)
    give_back()
    cost = near
    if there != here:
        far = _cost(spec, config, there, rows, work, dtype, device)
        give_back()
        cost = near.at(far, here, there, int(config.num_hidden_layers))
    # what torch loads at the first pass is not there before it; what it keeps of the skeleton
    # is used again
    after = int(psutil.Process().memory_info().rss)
    process = max(process_bytes, min(after, process_bytes + _LATE_BYTES))
    if packed or (spec.quant.bits and _in_kernels(dtype, device)):
        process += _KERNEL_BYTES
    if spec.quant_aware and spec.method == "lora":  # the rounded sums, kept beside the base
        packed += _linear_bytes(whole)
    memory = _memory(weight_bytes(whole), packed, cost, near, trained, held, process, base)
    work, seconds = _within_budget(spec, work, cost, rows, _loading_s(spec, base), trained, started)
    return Estimate(memory, seconds, work, weights, trained, spec.checkpointing == "on")


def _linear_bytes(whole: Any) -> int:
    from slipway.training.lora import linear_names

    weights = [whole.get_submodule(name).weight for name in linear_names(whole)]
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _packed_bytes(whole: Any) -> int:
    """Bytes that frozen weights laid out anew, for both directions, take more than the plain."""
    from slipway.training.lora import linear_names

    weights = [whole.get_submodule(name).weight for name in linear_names(whole)]
    if not weights or not _in_kernels(weights[0].dtype, torch.device("cpu")):
        return 0
    return sum(int(w.numel()) * int(w.element_size()) for w in weights)


def _in_kernels(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of this type are computed by oneDNN's kernels, which it keeps."""
    from slipway.training.frozen import can_reorder

    return can_reorder(torch.empty(1, 1, dtype=dtype, device=device))


def _two(spec: TrainSpec, config: Any, weights: int) -> tuple[int, int]:
    """Two numbers of layers between which the cost of a layer is that of the whole model.

    The second one's weights do not fit into a processor's cache, as the whole model's do not.
    """
    layers = int(config.num_hidden_layers)
    more = max(2, math.ceil(_CACHE_BYTES * layers / max(1, weights)))
    first = max(1, int(getattr(config, "first_k_dense_replace", 0) or 0) + 1)
    if spec.method == "freeze":
        first = max(first, abs(spec.freeze.layers))
    first = min(first, layers)
    return first, min(first + more, layers)


def _cost(
    spec: TrainSpec,
    config: Any,
    layers: int,
    rows: Sequence[Encoded],
    work: Work,
    dtype: torch.dtype,
    device: torch.device,
) -> Cost:
    from slipway.training.batch import Batch, batches, hidden_states, losses
    from slipway.training.checkpointing import compute_twice
    from slipway.training.evaluate import EVAL_PACK_TOKENS
    from slipway.training.methods import attach, load_dtype, make_optimizer
    from slipway.training.sharing import shares

    state = torch.get_rng_state()
    model = build(with_layers(config, layers), load_dtype(spec, dtype), device)
    if spec.quant.bits:
        make_up(model, spec.quant)
    tuned = attach(model, spec, dtype)
    if spec.checkpointing == "on":
        compute_twice(model)
    lean = shares(spec)
    largest = batches([rows[i] for i in work.probe], 1 << 30, device, lean=lean)
    typical = batches([rows[i] for i in work.typical], spec.pack_tokens, device, lean=lean)
    held_out = batches(_first(rows, EVAL_PACK_TOKENS), EVAL_PACK_TOKENS, device, lean=True)
    optimizer = make_optimizer(spec, tuned)

    def forward(batch: Batch) -> torch.Tensor:
        if spec.stage == "rm":  # no logits are made
            return hidden_states(model, batch).index_select(0, batch.ends).float().sum()
        return losses(model, batch, 1e-3).sum()

    def learn(packs: Any) -> None:
        for _, batch in packs:
            with tuned.computing():
                loss = forward(batch)
            loss.backward()

    def read(packs: Any) -> None:
        for _, batch in packs:
            with tuned.computing():
                forward(batch)

    try:
        return measure(
            model,
            lambda: learn(largest),
            lambda: learn(typical),
            lambda: read(typical),
            lambda: read(held_out),
            optimizer,
        )
    finally:
        torch.set_rng_state(state)
        gc.collect()


def _first(rows: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """The first rows that fill a pack."""
    found: list[Encoded] = []
    for row in rows:
        tokens -= len(row.input_ids)
        if found and tokens < 0:
            break
        found.append(row)
    return found


def _memory(
    weights: int,
    packed: int,
    cost: Cost,
    near: Cost,
    trained: int,
    optimizer: int,
    process: int,
    base: Path,
) -> Memory:
    gradients = 4 * trained
    slack = _HEAP_SLACK if not torch.cuda.is_available() else 1.0
    head = max(0, int(near.bytes - 4 * near.trained))
    activations = int(max(0.0, cost.bytes - 4 * cost.trained - head) * slack)
    # an eval's packs are larger than those of small steps, and nothing is kept then
    head += max(0, int(cost.eval_bytes * slack) - gradients - activations - head)
    training = packed + gradients + optimizer + activations + head
    # while a file is read its pages count beside the tensors made from it
    largest = max((path.stat().st_size for path in base.glob("*.safetensors")), default=0)
    return Memory(
        process=process,
        weights=weights,
        packed=packed,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        logits=head,
        loading=max(0, largest - training),
    )


def _within_budget(
    spec: TrainSpec,
    work: Work,
    cost: Cost,
    rows: Sequence[Encoded],
    loading_s: float,
    trained: int,
    started: float,
) -> tuple[Work, Seconds]:
    """The work, cut to the time budget if there is one, and its seconds."""
    seconds = _seconds(cost, rows, work, loading_s, trained, started)
    budget = spec.time_budget_s
    if budget is None or seconds.total <= budget or not work.steps:
        return work, seconds
    stepping = seconds.steps + seconds.reference
    left = budget - (seconds.total - stepping)
    steps = min(work.steps, max(LEAST_STEPS, math.floor(left / (stepping / work.steps))))
    part = steps / work.steps
    work = replace(work, steps=steps, forward_tokens=work.forward_tokens * part)
    return work, _seconds(cost, rows, work, loading_s, trained, started)


def _loading_s(spec: TrainSpec, base: Path) -> float:
    stored = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    packing = stored / 2 * seconds_per_weight(spec.quant) if spec.quant.bits else 0.0
    return _START_S + stored / _READ_BYTES_S + packing


def _seconds(
    cost: Cost,
    rows: Sequence[Encoded],
    work: Work,
    loading_s: float,
    trained: int,
    started: float,
) -> Seconds:
    tokens = sum(len(rows[i].input_ids) for i in work.typical)
    update_s = cost.update_s * trained / max(cost.trained, 1)
    per_step = cost.step_s / tokens * work.step_tokens + update_s
    return Seconds(
        preparing=time.perf_counter() - started,
        loading=loading_s,
        steps=work.steps * per_step,
        evals=work.evals * work.eval_tokens * cost.eval_s / tokens,
        reference=work.forward_tokens * cost.eval_s / tokens,
        saves=_FINISH_S + work.saves * (0.05 + 12 * trained / _SAVE_BYTES_S),
    )
