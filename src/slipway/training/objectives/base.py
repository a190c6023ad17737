"""What the training loop knows of a stage: units to learn from, their loss and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StepSums:
    """Forward and backward of one optimiser step.

    Attributes:
        loss: mean over what the stage counts (label tokens, pairs, answers).
        tokens: computed, all of them real.
        extra: what else people want to see of a step, such as `accuracy` of a preference.
        weight: how much the loss is the mean of; 0 when there was nothing.
    """

    loss: float
    tokens: int
    extra: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The held-out rows under the model as it is.

    Attributes:
        extra: what is told beside the loss: `perplexity`, `rows`, `label_tokens`, ...
        weight: how much the loss is the mean of.
    """

    loss: float
    extra: dict[str, Any] = field(default_factory=dict)
    weight: float = 0.0


class InStep(Protocol):
    """Processes that compute packs together."""

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over all."""

    def most(self, value: int) -> int:
        """The largest of everybody's values."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The run that an objective is part of.

    Attributes:
        folder: for what the run must know again after a resume; None: nothing is kept.
        stop: called often while something is prepared; may raise.
        tell: gets (rows done, rows to do) while something is prepared.
        sum: adds numbers up over the processes that train together; all must call it as often.
        in_step: the processes over which the model is split; None: it is not.
    """

    folder: Path | None = None
    stop: Callable[[], None] = lambda: None
    tell: Callable[[int, int], None] = lambda done, total: None
    sum: Callable[..., list[float]] = lambda *values: list(values)
    in_step: InStep | None = None


class Objective(Protocol):
    """One stage's loss over one run's data.

    A unit is what a step is made of and never cut: a row, or the two rows of a preference pair.
    """

    @property
    def collective(self) -> bool:
        """Whether `gradients` must be called by all processes, also by one without a unit."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each training unit."""

    @property
    def has_heldout(self) -> bool:
        """Whether there is something to measure an eval loss on."""

    def prepare(self, numbers: Iterable[int]) -> None:
        """What must be known before the first step of the held-out units and of these.

        The weights are those from before training.
        """

    def gradients(self, numbers: Sequence[int], stop: Callable[[], None]) -> StepSums:
        """Add the gradient of a step's mean loss over these units to the trained weights.

        However the units fall into packs, the result is the same but for rounding.

        Args:
            stop: called before each pack; may raise.
        """

    def evaluate(self, stop: Callable[[], None]) -> EvalResult | None:
        """The loss on the held-out units; None without any."""
