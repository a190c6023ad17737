"""The gate before a name: what a level must meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slipway.core.errors import ProofError
from slipway.core.i18n import tr


@dataclass(frozen=True, slots=True)
class Gate:
    """What every level must meet; None is no condition.

    Attributes:
        max_kld: largest mean KL divergence from the unquantised model, nats per token.
        min_top1: least part (0..1) of the tokens at which both hold the same token most likely.
    """

    max_kld: float | None = None
    min_top1: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is no condition."""
        return self.max_kld is None and self.min_top1 is None

    def as_json(self) -> dict[str, float | None]:
        """The conditions by their names."""
        return {"max_kld": self.max_kld, "min_top1": self.min_top1}

    def failures(self, level: dict[str, Any]) -> list[str]:
        """The conditions that a measured level does not meet, with both numbers.

        A number that is none (a broken model gives NaN) meets nothing.
        """
        found = []
        if self.max_kld is not None and not level["kld_mean"] <= self.max_kld:
            found.append(f"KLD {level['kld_mean']:.5f} > {self.max_kld:g}")
        if self.min_top1 is not None and not level["top1"] >= self.min_top1:
            found.append(f"top-1 {level['top1']:.4f} < {self.min_top1:g}")
        return found

    def require(self, levels: dict[str, dict[str, Any]]) -> None:
        """Let levels pass, or none of them.

        Raises:
            ProofError: a level fails; each is named with its numbers.
        """
        failed = {kind: self.failures(level) for kind, level in levels.items()}
        words = [f"{kind}: {', '.join(why)}" for kind, why in failed.items() if why]
        if words:
            raise ProofError(
                "ship.gate_failed",
                tr("the gate is not passed, and no name was created: {why}", why="; ".join(words)),
                tr("take a larger type, such as `-t Q8_0`; the files are kept for a look"),
            )
