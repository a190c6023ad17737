"""One real, tiny run of the whole path, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.paths import Home
from slipway.demo import DemoOptions
from slipway.jobs.pipeline import StageRecord


def tiny_options(**changes: Any) -> DemoOptions:
    """A demo of a few training steps with the starter model."""
    values: dict[str, Any] = {
        "base": "starter",
        "quick": True,
        "max_steps": 8,
        "daemon_port": 0,
        "gateway_port": 0,
    }
    return DemoOptions(**{**values, **changes})


@dataclass(frozen=True)
class TinyDemo:
    home: Home
    report: dict[str, Any]
    folder: Path
    records: list[StageRecord]

    def outputs(self, stage: str) -> dict[str, Any]:
        return next(r.outputs for r in self.records if r.name == stage)
