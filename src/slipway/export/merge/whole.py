"""A run that trained the model's own weights: there is nothing to merge, only to prove and take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slipway.core.errors import ProofError
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, package_versions, write_manifest
from slipway.export.merge.sources import Source
from slipway.export.merge.write import write_merged
from slipway.export.shards import Weights


def take_whole(taken: Source, base: Path, out_dir: Path, dtype: str, events: EventLog) -> Manifest:
    """Put the run's `model/` at `out_dir` as a merged model; its files are linked where possible.

    Args:
        dtype: "keep", or the number format that the weights are written in.

    Raises:
        ProofError: no weight differs from the base's, or one is not a finite number.
        ResourceError: the disk is full.
    """
    assert taken.run is not None
    run_dir, run = taken.path, taken.run
    source = run_dir / "model"
    with new_folder(out_dir) as folder:
        if dtype == "keep":
            for path in sorted(source.iterdir()):
                _link_or_copy(path, folder / path.name)
        else:
            write_merged(source, Weights(source), {}, folder, dtype, events)
        events.emit("progress", done=1, total=2, unit="merge: proof")
        changed, tensors = _changed(base, folder)
        if not changed:
            raise ProofError(
                "merge.unchanged",
                tr("the run {run} changed no weight of the base", run=str(run_dir)),
                tr("train longer, or with a higher `learning_rate`"),
            )
        manifest = write_manifest(
            folder,
            "merged",
            out_dir.name,
            parents={"run": run.digest, "base": run.parents["base"]},
            versions=package_versions("torch", "transformers", "safetensors"),
            metrics={"changed_tensors": changed, "tensors": tensors},
            notes={"run": run.name, "whole": True},
        )
    events.emit("artefact", kind="merged", path=str(out_dir), metrics=manifest.metrics)
    return manifest


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _changed(base: Path, folder: Path) -> tuple[int, int]:
    """Tensors that are not the base's, and all; each is read and must be finite."""
    import torch
    from safetensors import safe_open

    places = {}
    for shard in base.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            places.update(dict.fromkeys(file.keys(), shard))
    changed = count = 0
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                count += 1
                tensor = file.get_tensor(name)
                if not bool(torch.isfinite(tensor).all()):
                    raise ProofError(
                        "merge.not_finite",
                        tr("`{tensor}` of the trained model is not finite", tensor=name),
                        tr("train anew with a lower `learning_rate`"),
                    )
                if name not in places:
                    changed += 1
                    continue
                with safe_open(places[name], framework="pt") as before:
                    changed += not tensor.equal(before.get_tensor(name).to(tensor.dtype))
    return changed, count
