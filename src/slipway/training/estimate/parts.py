"""What an estimate consists of: values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do, known before any weight is loaded.

    Attributes:
        steps: optimiser steps.
        step_tokens: tokens of a step, on average.
        eval_tokens: tokens of one eval.
        evals: evals in the run, with the one before the first step.
        saves: checkpoints.
        probe: row numbers of one pack as large as any of the first steps.
        typical: row numbers of packs as they usually are, to be timed.
        forward_tokens: tokens that go through a model without gradient, evals apart: what a
            reference is asked, once for each row.
    """

    steps: int
    step_tokens: float
    eval_tokens: int
    evals: int
    saves: int
    probe: Sequence[int]
    typical: Sequence[int]
    forward_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of training, part by part.

    Attributes:
        process: Python, torch and the data, before any weight is there.
        weights: the model, with what is trained.
        packed: weights laid out anew for fast products (CPU with bf16).
        gradients: of the trained weights.
        optimizer: its state.
        activations: what forward keeps for backward, and what the layers need on the way.
        logits: what the output head and the loss need, at their peak.
        loading: what loading needs above all of these; 0 when training needs more.
    """

    process: int
    weights: int
    packed: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    loading: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(asdict(self).values())

    def as_json(self) -> dict[str, int]:
        """Part -> bytes, with `total`."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds of a run, part by part.

    Attributes:
        preparing: what had passed when the estimate was made, the estimate itself included.
        reference: what a reference model is asked.
    """

    preparing: float
    loading: float
    steps: float
    evals: float
    saves: float
    reference: float = 0.0

    @property
    def total(self) -> float:
        """All parts together."""
        return float(sum(asdict(self).values()))

    def as_json(self) -> dict[str, float]:
        """Part -> seconds, with `total`."""
        parts = {key: round(value, 2) for key, value in asdict(self).items()}
        return {**parts, "total": round(self.total, 2)}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory and time of a run.

    Attributes:
        weights: numbers in the model, with adapters.
        trained: numbers that are trained.
        checkpointing: activations are computed twice.
        tokens_per_s: expected speed of the steps.
    """

    memory: Memory
    seconds: Seconds
    work: Work
    weights: int
    trained: int
    checkpointing: bool = False

    @property
    def tokens_per_s(self) -> float:
        """Expected tokens per second of the steps."""
        return self.work.steps * self.work.step_tokens / max(self.seconds.steps, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Everything, for events and `--json`."""
        return {
            "memory_bytes": self.memory.as_json(),
            "seconds": self.seconds.as_json(),
            "steps": self.work.steps,
            "tokens": round(self.work.steps * self.work.step_tokens),
            "tokens_per_s": round(self.tokens_per_s, 1),
            "weights": self.weights,
            "trained_weights": self.trained,
            "checkpointing": self.checkpointing,
        }
