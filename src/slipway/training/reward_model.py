"""A trained reward model: a number for each conversation that ends with an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest
from slipway.datasets import Encoded, EncodeRule, Sample, encode_documents
from slipway.training.batch import group_batches
from slipway.training.folder import ADAPTER, MODEL, read_settings
from slipway.training.methods.scored import HEAD_FILE, WEIGHT
from slipway.training.model import pick_device, pick_dtype, set_threads
from slipway.training.objectives.other_model import load_other
from slipway.training.objectives.reward import scores
from slipway.training.spec import TrainSpec
from slipway.training.token_sets import load_tokenizer_of, rule_of

_AT_ONCE = 128


class RewardModel:
    """A finished run of stage rm, loaded.

    Attributes:
        spec: the recipe it was trained by; its cut-off and template rule what is read.
    """

    def __init__(self, model: Any, weight: torch.Tensor, tokenizer: Any, spec: TrainSpec) -> None:
        self._model, self._weight, self._tokenizer = model, weight, tokenizer
        self.spec = spec

    @property
    def rule(self) -> EncodeRule:
        """How a conversation becomes tokens."""
        return rule_of(self.spec)

    def encode(self, sample: Sample) -> list[Encoded]:
        """The documents of a sample: two of a `preference`, chosen first."""
        return encode_documents(sample, self._tokenizer, self.rule)

    def score(
        self, rows: Sequence[Encoded], stop: Callable[[], None] = lambda: None
    ) -> list[float]:
        """The score of each document, in order."""
        found = [0.0] * len(rows)
        device = self._weight.device
        with torch.inference_mode():
            for start in range(0, len(rows), _AT_ONCE):
                groups = [(row,) for row in rows[start : start + _AT_ONCE]]
                for members, batch in group_batches(groups, self.spec.pack_tokens, device):
                    stop()
                    values = scores(self._model, batch, self._weight).tolist()
                    for member, value in zip(members, values, strict=True):
                        found[start + member] = value
        return found


def is_reward_run(folder: Path) -> bool:
    """Whether a folder is a finished run that holds a reward model."""
    return any((folder / name / HEAD_FILE).is_file() for name in (ADAPTER, MODEL))


def load_reward(folder: Path, *, threads: int | None = None, dtype: str = "auto") -> RewardModel:
    """Load a finished run of stage rm.

    Raises:
        NotFoundError: no finished run there, or its base is gone.
        InputError: it is not of stage rm.
    """
    from safetensors.torch import load_file

    manifest = read_manifest(folder, kind="run")
    head = folder / str(manifest.notes.get("artefact", "adapter")) / HEAD_FILE
    if not head.is_file():
        raise InputError(
            "reward.no_head",
            tr("{path} is no reward model: it holds no {name}", path=str(folder), name=HEAD_FILE),
            tr("train one with `stage: rm`"),
        )
    spec = read_settings(folder).spec
    base = Path(str(manifest.notes.get("base_path", spec.model)))
    set_threads(threads)
    device = pick_device()
    model = load_other(folder, base, pick_dtype(dtype, device), device)
    weight = load_file(head)[WEIGHT].to(device)
    return RewardModel(model, weight, load_tokenizer_of(spec, base), spec)
