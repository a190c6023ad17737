"""What a step is made of: how many rows belong together, and what is computed besides them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slipway.training.spec import TrainSpec

_PAIRED = frozenset({"dpo", "rm"})


def rows_in_unit(stage: str) -> int:
    """Rows of a unit: the two answers of a pair, or one."""
    return 2 if stage in _PAIRED else 1


def unit_lengths(stage: str, rows: Sequence[int]) -> list[int]:
    """Tokens of each unit, of those of each row."""
    if rows_in_unit(stage) == 1:
        return [int(length) for length in rows]
    return [int(a) + int(b) for a, b in zip(rows[::2], rows[1::2], strict=True)]


def rows_of(stage: str, units: Iterable[int]) -> list[int]:
    """The rows of units, in their order."""
    size = rows_in_unit(stage)
    return [row for unit in units for row in range(size * unit, size * unit + size)]


def has_reference(spec: TrainSpec) -> bool:
    """Whether the stage's loss asks a reference model."""
    return spec.stage == "kto" or (
        spec.stage == "dpo" and spec.preference.loss not in ("orpo", "simpo")
    )


def forward_tokens(spec: TrainSpec, learned: float, train: int, heldout: int) -> float:
    """Tokens that go through a model without gradient, evals apart, in a run.

    Args:
        learned: tokens of all steps together.
        train, heldout: tokens of the rows; the reference is asked once about each that is met.
    """
    if not has_reference(spec):
        return 0.0
    asked = min(learned, train) + heldout
    # kto: mismatched answers too, by the reference once and by the model in each step
    return 2 * asked + learned if spec.stage == "kto" else asked
