"""The model of a run: loaded, proved, with its method attached, and split if it is to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from slipway.core.events import EventLog
from slipway.datasets import Encoded
from slipway.training.checkpointing import compute_twice, is_wanted
from slipway.training.folder import EVENTS
from slipway.training.methods import Tuned, WholeTuned, attach, load_dtype
from slipway.training.model import load_base, prove_loss
from slipway.training.sharding.choose import sharding_for
from slipway.training.spec import TrainSpec
from slipway.training.world import World


def make_tuned(
    spec: TrainSpec,
    base: Path,
    rows: Sequence[Encoded],
    heldout: Sequence[Encoded],
    dtype: torch.dtype,
    device: torch.device,
    events: EventLog,
    run_dir: Path,
    foreseen: Any,
    world: World,
) -> Tuned:
    """The model that a run trains, the same on every process.

    Raises:
        SlipwayError: the base cannot be loaded, its loss is not ours, or the method does not fit.
    """
    sharding = sharding_for(spec, world, events)
    # a model that is split may be larger than one device
    first = device if sharding is None else torch.device("cpu")
    model = load_base(base, load_dtype(spec, dtype), first, spec.quant)
    difference = prove_loss(model, rows, first)
    torch.manual_seed(spec.seed)
    tuned = attach(model, spec, dtype)
    twice = _checkpointing(model, spec, foreseen, run_dir, world)
    _tell_model(events, tuned, dtype, device, rows, heldout, difference, twice)
    world.same(tuned.parameters)
    if sharding is not None:
        assert isinstance(tuned, WholeTuned)
        tuned.split(sharding, device)
        world.in_step = True
    return tuned


def _checkpointing(model: Any, spec: TrainSpec, foreseen: Any, run_dir: Path, world: World) -> bool:
    """Let the model compute its activations twice if the run wants it; whether it does."""
    wanted = world.share(is_wanted(spec, foreseen, run_dir / EVENTS))
    if wanted:
        compute_twice(model)
    return wanted


def _tell_model(
    events: EventLog,
    tuned: Any,
    dtype: Any,
    device: Any,
    rows: Sequence[Any],
    heldout: Sequence[Any],
    difference: float,
    twice: bool,
) -> None:
    trainable = sum(p.numel() for p in tuned.parameters)
    events.emit(
        "log",
        message=f"base in {str(dtype).removeprefix('torch.')} on {device}, "
        f"{trainable:,} trained weights on {', '.join(tuned.targets)}"
        + (", activations computed twice" if twice else ""),
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        threads=torch.get_num_threads(),
        trained_weights=trainable,
        targets=tuned.targets,
        rows=len(rows),
        heldout_rows=len(heldout),
        packed_loss_difference=difference,
        checkpointing=twice,
    )
