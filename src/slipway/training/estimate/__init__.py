"""Before a run: its memory, part by part, and its time. After it: how far off that was."""

from slipway.training.estimate.compare import Comparison, compare
from slipway.training.estimate.parts import Estimate, Memory, Seconds, Work

__all__ = ["Comparison", "Estimate", "Memory", "Seconds", "Work", "compare"]
