"""Objectives that need more than their rows: a reference model, a folder to keep numbers in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slipway.datasets import Encoded
from slipway.training.methods import Tuned
from slipway.training.objectives.base import Setting
from slipway.training.objectives.feedback import Feedback
from slipway.training.objectives.preference import Preference
from slipway.training.objectives.reference import Before, Other, ReferenceModel
from slipway.training.objectives.reinforce import Reinforce
from slipway.training.objectives.units import has_reference
from slipway.training.sharing import shares
from slipway.training.spec import TrainSpec


def preference(
    spec: TrainSpec,
    tuned: Tuned,
    rows: Sequence[Encoded],
    heldout: Sequence[Encoded],
    setting: Setting,
) -> Preference:
    """Stage dpo."""
    return Preference(
        tuned,
        rows,
        heldout,
        spec.preference,
        spec.pack_tokens,
        lean=shares(spec),
        model=reference_model(spec, tuned) if has_reference(spec) else None,
        folder=setting.folder,
        stop=setting.stop,
        tell=setting.tell,
    )


def feedback(
    spec: TrainSpec,
    tuned: Tuned,
    rows: Sequence[Encoded],
    heldout: Sequence[Encoded],
    setting: Setting,
) -> Feedback:
    """Stage kto."""
    return Feedback(
        tuned,
        rows,
        heldout,
        spec.kto,
        spec.preference.ftx,
        spec.pack_tokens,
        lean=shares(spec),
        model=reference_model(spec, tuned),
        setting=setting,
    )


def reinforce(
    spec: TrainSpec, tuned: Tuned, rows: Sequence[Encoded], heldout: Sequence[Encoded]
) -> Reinforce:
    """Stages rloo and grpo."""
    from slipway.training.objectives.rewards import make_rewards
    from slipway.training.samples import end_tokens
    from slipway.training.token_sets import load_tokenizer_of

    tokenizer = load_tokenizer_of(spec, Path(spec.model))
    return Reinforce(
        tuned,
        rows,
        heldout,
        spec.rl,
        stage=spec.stage,
        pack_tokens=spec.pack_tokens,
        lean=shares(spec),
        tokenizer=tokenizer,
        ends=end_tokens(tuned.model, tokenizer),
        rewards=make_rewards(spec),
        model=Before(tuned) if spec.rl.beta else None,
    )


def reference_model(spec: TrainSpec, tuned: Tuned) -> ReferenceModel:
    """The reference of a recipe: another model, or the one before training."""
    path = spec.preference.ref_model
    if path is None:
        return Before(tuned)
    device = next(tuned.model.parameters()).device

    def load() -> object:
        from slipway.training.model import pick_dtype
        from slipway.training.objectives.other_model import load_other

        return load_other(Path(path), Path(spec.model), pick_dtype(spec.dtype, device), device)

    return Other(load)
