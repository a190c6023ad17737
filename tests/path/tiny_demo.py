"""One real, tiny run of the whole path, shared by the tests of this folder.

Downloads and the native build live in a folder that outlasts the test run (SLIPWAY_TEST_CACHE,
default ~/.cache/slipway-tests), so that only the first run on a machine pays for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.paths import Home
from slipway.demo import DemoOptions
from slipway.jobs.pipeline import StageRecord

SHARED = ("bases", "toolchains", "cache")


def link_shared_folders(home: Home) -> None:
    """Let a fresh home use the downloads and builds of earlier test runs."""
    shared = Path(os.environ.get("SLIPWAY_TEST_CACHE", "~/.cache/slipway-tests")).expanduser()
    home.root.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (shared / name).mkdir(parents=True, exist_ok=True)
        (home.root / name).symlink_to(shared / name)


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
