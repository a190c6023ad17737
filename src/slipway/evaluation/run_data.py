"""The rows that a run keeps for its eval loss, found again by its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from slipway.core.errors import InputError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest
from slipway.datasets import Sample
from slipway.training.spec import TrainSpec

Part = Literal["heldout", "train", "all"]


@dataclass(frozen=True, slots=True)
class RunData:
    """The data of a run that is more than one folder or file with a held-out split.

    Attributes:
        run: the run's folder.
        identity: of `data` as it was trained on.
    """

    run: Path
    spec: TrainSpec
    identity: str

    def __str__(self) -> str:
        return str(self.run)

    def samples(self, part: Part) -> list[Sample]:
        """The rows of a part, by the same rule as the run's.

        Raises:
            NotFoundError: the run kept no rows, or its data is gone.
            InputError: its data changed, so which rows it kept cannot be told.
        """
        from slipway.training.token_sets import data_identity, streams

        if self.identity != data_identity(self.spec.sources, self.spec.stage):
            raise InputError(
                "eval.data_changed",
                tr("the data of {run} changed since it was trained", run=str(self.run)),
                tr("name the rows to measure on with `--data`"),
            )
        train, kept = streams(self.spec)
        if part != "train" and kept is None:
            raise NotFoundError(
                "eval.nothing_kept",
                tr("the run {run} keeps no rows for its eval loss", run=str(self.run)),
                tr("name some with `--data`, or measure on what it learned with `--part train`"),
            )
        learned = list(train) if part != "heldout" else []
        return learned + (list(kept) if kept is not None and part != "train" else [])


def data_of_run(folder: Path, manifest: Manifest) -> Path | RunData | None:
    """What a run is measured on: its dataset, where that is one folder or file that is there."""
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        spec = TrainSpec.model_validate({"model": "", **recipe})
    except (OSError, yaml.YAMLError, TypeError, ValueError):
        return None
    sources = spec.eval_sources or spec.sources
    divided = spec.val_size and not spec.eval_sources
    if divided or len(sources) != 1 or sources[0].info is not None:
        return RunData(folder, spec, manifest.parents.get("dataset", ""))
    path = Path(sources[0].path)
    return path if path.exists() else None
