"""A run that trained the model's own weights: there is nothing to merge, only to prove and take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from slipway.core.errors import ProofError, UsageError
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, package_versions, write_manifest


def take_whole(
    run_dir: Path, run: Manifest, base: Path, out_dir: Path, events: EventLog
) -> Manifest:
    """Put the run's `model/` at `out_dir` as a merged model; its files are linked where possible.

    Raises:
        ProofError: no weight differs from the base's, or one is not a finite number.
        ResourceError: the disk is full.
    """
    source = run_dir / "model"
    with new_folder(out_dir) as folder:
        for path in sorted(source.iterdir()):
            _link_or_copy(path, folder / path.name)
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
                    changed += not tensor.equal(before.get_tensor(name))
    return changed, count


def refuse_reward_model(run_dir: Path, run: Manifest) -> None:
    """A reward model's head has no place in a model that writes.

    Raises:
        UsageError: the run is of stage rm.
    """
    stage = run.config.get("stage")
    if stage is not None and stage.value == "rm":
        raise UsageError(
            "merge.reward_model",
            tr("{run} holds a reward model, which gives numbers and writes nothing", run=run_dir),
            tr("measure it with `slipway eval {run}`", run=run_dir),
        )
