"""An estimate against what then happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway.core.i18n import Text, tr
from slipway.training.estimate.parts import Estimate

MEMORY_WITHIN = 0.20
TIME_WITHIN = 0.25


@dataclass(frozen=True, slots=True)
class Comparison:
    """Estimated and measured; a ratio of 1.1 says that the estimate was a tenth too high."""

    memory_estimated: int
    memory_measured: int
    seconds_estimated: float
    seconds_measured: float

    @property
    def memory_ratio(self) -> float:
        """Estimated memory as a part of the measured."""
        return self.memory_estimated / max(self.memory_measured, 1)

    @property
    def seconds_ratio(self) -> float:
        """Estimated time as a part of the measured."""
        return self.seconds_estimated / max(self.seconds_measured, 1e-9)

    @property
    def within(self) -> bool:
        """Whether both are as near as they should be."""
        memory = abs(self.memory_ratio - 1) <= MEMORY_WITHIN
        return memory and abs(self.seconds_ratio - 1) <= TIME_WITHIN

    def as_json(self) -> dict[str, Any]:
        """For an event and the manifest's notes."""
        return {
            "memory_bytes_estimated": self.memory_estimated,
            "memory_bytes_measured": self.memory_measured,
            "memory_ratio": round(self.memory_ratio, 3),
            "seconds_estimated": round(self.seconds_estimated, 2),
            "seconds_measured": round(self.seconds_measured, 2),
            "seconds_ratio": round(self.seconds_ratio, 3),
            "within": self.within,
        }

    def sentence(self) -> Text:
        """One line for people."""
        return tr(
            "estimated before the run: {memory:.2f} GB and {seconds:.0f} s; "
            "measured: {memory_real:.2f} GB ({memory_off:+.0%}) and {seconds_real:.0f} s "
            "({seconds_off:+.0%})",
            memory=self.memory_estimated / 1e9,
            seconds=self.seconds_estimated,
            memory_real=self.memory_measured / 1e9,
            memory_off=self.memory_ratio - 1,
            seconds_real=self.seconds_measured,
            seconds_off=self.seconds_ratio - 1,
        )


def compare(estimate: Estimate, measured: Mapping[str, Any]) -> Comparison:
    """Set an estimate against a run's metrics.

    Args:
        measured: `peak_memory_bytes`, and `seconds` of the whole run.
    """
    return Comparison(
        memory_estimated=estimate.memory.total,
        memory_measured=int(measured["peak_memory_bytes"]),
        seconds_estimated=estimate.seconds.total,
        seconds_measured=float(measured["seconds"]),
    )
