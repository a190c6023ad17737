"""Everything there is to say about one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.core.manifest import Setting
from slipway.jobs.run_folder import (
    Checkpoint,
    checkpoints_of,
    curve_of,
    manifest_of,
    samples_of,
    settings_of,
    size_of,
)
from slipway.jobs.runs import Heir, Run, Runs


@dataclass(frozen=True, slots=True)
class Details:
    """What a run's folder holds, and what was made from it.

    Attributes:
        metrics: the manifest's, of a finished run.
        lineage: role -> digest of what it was made from; before it is finished the paths.
        samples: of the newest eval that made some: step, prompt, answer.
        size: bytes of the folder.
    """

    settings: dict[str, Setting]
    metrics: dict[str, Any]
    lineage: dict[str, str]
    versions: dict[str, str]
    digest: str
    curve: Path | None
    samples: list[dict[str, Any]]
    checkpoints: list[Checkpoint]
    heirs: list[Heir]
    size: int

    def as_json(self) -> dict[str, Any]:
        """The same as a JSON value."""
        return {
            "settings": {key: asdict(setting) for key, setting in self.settings.items()},
            "metrics": self.metrics,
            "lineage": self.lineage,
            "versions": self.versions,
            "digest": self.digest,
            "curve": str(self.curve) if self.curve else None,
            "samples": self.samples,
            "checkpoints": [
                {"step": c.step, "path": str(c.path), "size": c.size} for c in self.checkpoints
            ],
            "heirs": [{"kind": heir.kind, "path": str(heir.path)} for heir in self.heirs],
            "size": self.size,
        }


def details(runs: Runs, run: Run) -> Details:
    """Read a run's folder; what is not there is empty."""
    folder = run.folder
    manifest = manifest_of(folder)
    settings = settings_of(folder, manifest)
    paths = {
        role: str(settings[key].value)
        for role, key in (("base", "model"), ("dataset", "data"))
        if key in settings
    }
    return Details(
        settings=settings,
        metrics=dict(manifest.metrics) if manifest else {},
        lineage=dict(manifest.parents) if manifest else paths,
        versions=dict(manifest.versions) if manifest else {},
        digest=manifest.digest if manifest else "",
        curve=curve_of(folder),
        samples=samples_of(folder),
        checkpoints=checkpoints_of(folder),
        heirs=runs.heirs(run),
        size=size_of(folder) if folder.is_dir() else 0,
    )
