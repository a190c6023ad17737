"""Whether a run's model is split, by its recipe and the processes that train it."""

from __future__ import annotations

from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.training.sharding.config import Sharding, read_sharding
from slipway.training.spec import TrainSpec
from slipway.training.world import World


def sharding_for(spec: TrainSpec, world: World, events: EventLog) -> Sharding | None:
    """How the model is split; None if every process holds it whole. What has no effect is told.

    Raises:
        UsageError: the recipe wants a split that its method or stage does not allow.
    """
    asked = read_sharding(spec)
    if asked is None:
        return None
    for note in asked.notes:
        events.emit("log", message=str(note))
    if not asked.split:
        return None
    if world.size == 1:
        events.emit("log", message=f"{asked.where}: one process, so nothing is split")
        return None
    if spec.method not in ("full", "freeze"):
        if not asked.reshard:  # what is trained is small: there is nothing to gain
            events.emit("log", message=f"{asked.where}: an adapter's own state is not split")
            return None
        raise UsageError(
            "train.sharding_method",
            tr("{path}: a base under an adapter is not split", path=asked.where),
            tr("use `method=full`, or take the key out: `quant.bits=4` makes the base smaller"),
        )
    if spec.stage not in ("pt", "sft"):
        raise UsageError(
            "train.sharding_stage",
            tr(
                "{path}: stage {stage} does not split the model", path=asked.where, stage=spec.stage
            ),
            tr("use `method=lora` for this stage, or one process"),
        )
    return asked
