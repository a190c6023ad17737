"""A training run from recipe to artefact folder: fresh, resumed, or already finished."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slipway.core.errors import (
    ConflictError,
    NotFoundError,
)
from slipway.core.events import EventLog
from slipway.core.files import sha256_json, write_text
from slipway.core.i18n import tr
from slipway.core.manifest import (
    Manifest,
    package_versions,
    read_manifest,
    verify_files,
    write_manifest,
)
from slipway.training.begun import adapter_identity
from slipway.training.endings import as_known, end_told
from slipway.training.folder import (
    ADAPTER,
    BEST_FOLDER,
    CURVE,
    EVENTS,
    MODEL,
    RECIPE,
    SETTINGS,
    only_one,
    stop_flag,
    write_settings,
)
from slipway.training.obeyed import require_obeyed
from slipway.training.observers import observed, title_of
from slipway.training.spec import Resolved, TrainSpec

# keys that change neither the plan nor, but for rounding, the weights
NEUTRAL = frozenset(
    [
        "label",
        "tags",
        "report_to",
        "sample_prompts",
        "save_every_s",
        "save_every_steps",
        "model",
        "adapter",
        "data",
        "eval_data",
        "pack_tokens",
    ]
)


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        resumed_from: the step it went on from, 0 for a fresh run; the last step when it was
            finished before.
    """

    run_dir: Path
    manifest: Manifest
    resumed_from: int

    @property
    def adapter(self) -> Path:
        """The adapter folder, in PEFT's format; of a method that trains an adapter."""
        return self.run_dir / ADAPTER

    @property
    def model(self) -> Path:
        """The model folder, in Hugging Face's format; of a method that trains a whole model."""
        return self.run_dir / MODEL

    @property
    def metrics(self) -> dict[str, Any]:
        """base_eval_loss, eval_loss, train_loss, tokens, tokens_per_s, seconds, steps, ..."""
        return self.manifest.metrics


def train(
    recipe: Resolved | TrainSpec, *, run_dir: Path, events: EventLog, resume: bool = True
) -> RunResult:
    """Fine-tune a model as a recipe says, into a run folder.

    The folder gets `adapter/` (PEFT) or, by methods full and freeze, `model/` (Hugging Face),
    `recipe.yaml`, `events.jsonl`, `loss_curve.png`, and last `manifest.json` (kind "run"). Called
    again after a kill or Ctrl-C it goes on from the last checkpoint to the same result; called on
    a finished run of the same recipe it returns that.

    Args:
        events: gets every event too, besides the run's own file.
        resume: False starts anew, removing what an earlier run left in the folder.

    Raises:
        ConflictError: the folder holds a run of another recipe, base or dataset, or is in use.
        InputError, NotFoundError, UsageError: model, data or recipe are unusable.
        ProofError: the loss is not a finite number; the last checkpoint is kept.
        ResourceError: disk or memory are full; the last checkpoint is intact.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    resolved = recipe if isinstance(recipe, Resolved) else Resolved(recipe, {})
    require_obeyed(resolved.spec)
    try:
        with only_one(run_dir), stop_flag(run_dir) as stop:
            return _train(resolved, run_dir.absolute(), events, resume, stop)
    except (OSError, MemoryError, RuntimeError) as error:
        known = as_known(error, resolved, run_dir)
        if known is None:
            raise
        raise known from error


def _train(
    resolved: Resolved, run_dir: Path, outer: EventLog, resume: bool, stop: Callable[[], None]
) -> RunResult:
    from slipway.training import checkpoint
    from slipway.training.model import base_digest
    from slipway.training.token_sets import fetch_data

    started = time.perf_counter()
    spec = resolved.spec
    base = Path(spec.model)
    if not base.is_dir():
        raise NotFoundError(
            "model.not_found",
            tr("the model folder {path} does not exist", path=str(base)),
            tr("get a base model with `slipway pull starter`"),
        )
    fetch_data(spec, outer)
    identity = _identity(spec, base_digest(base))
    if not resume:
        _clear(run_dir)
    finished = _finished(run_dir, identity, outer)
    if finished:
        return RunResult(run_dir, finished, int(finished.metrics["steps"]))
    damaged: list[str] = []
    found = checkpoint.latest(run_dir, lambda at, why: damaged.append(f"{at.name}: {why}"))
    if found and found[1].identity != identity:
        raise _other_run(run_dir, found[1].identity, identity)
    write_settings(run_dir, resolved)
    events = _run_events(run_dir, outer)
    with end_told(events, resolved, run_dir), observed(resolved, run_dir, events):
        trainer = _make_trainer(spec, base, run_dir, events, stop, None if found else started)
        for reason in damaged:
            events.emit("log", message=f"passed over a damaged checkpoint: {reason}")
        if found:
            folder, progress = found
            checkpoint.restore(folder, trainer.tuned, trainer.optimizer)
            events.emit("state", state="resumed", step=progress.step)
        else:
            events.emit("state", state="started", step=0)
            progress = trainer.prepare(identity, started)
        first_step = progress.step
        progress = trainer.run(progress)
        manifest = _finish(resolved, run_dir, trainer, progress, identity)
    events.emit("state", state="finished", step=progress.step, metrics=manifest.metrics)
    return RunResult(run_dir, manifest, first_step)


def _identity(spec: TrainSpec, base: str) -> dict[str, str]:
    from slipway.training.token_sets import data_identity

    identity = {"base": base, "dataset": data_identity(spec.sources, spec.stage)}
    if spec.eval_data:
        identity["eval_dataset"] = data_identity(spec.eval_sources, spec.stage)
    if spec.adapter:
        identity["adapter"] = adapter_identity(Path(spec.adapter), base)
    identity["recipe"] = "sha256:" + sha256_json(spec.model_dump(exclude=set(NEUTRAL)))
    return identity


def _finished(run_dir: Path, identity: dict[str, str], outer: EventLog) -> Manifest | None:
    """The manifest when the folder holds this run, finished and whole; a damaged one is cleared."""
    try:
        manifest = read_manifest(run_dir, kind="run")
    except NotFoundError:
        return None
    if manifest.notes.get("identity") != identity:
        raise _other_run(run_dir, manifest.notes.get("identity", {}), identity)
    if damaged := verify_files(run_dir, manifest):
        outer.emit("log", message=f"{', '.join(damaged)} of the finished run changed: trained anew")
        _clear(run_dir)
        return None
    return manifest


def _other_run(run_dir: Path, there: dict[str, str], here: dict[str, str]) -> ConflictError:
    changed = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
    return ConflictError(
        "run.other_recipe",
        tr(
            "{path} holds a run with another {what}",
            path=str(run_dir),
            what=", ".join(changed),
        ),
        tr("give another `--run-dir`, or start anew in this one with `--fresh`"),
    )


def _clear(run_dir: Path) -> None:
    """Remove what a run made, and nothing else that may lie in the folder."""
    (run_dir / "manifest.json").unlink(missing_ok=True)  # first: no half-removed finished run
    for name in (ADAPTER, MODEL, "checkpoints", BEST_FOLDER, "tensorboard"):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    for name in (RECIPE, SETTINGS, EVENTS, CURVE):
        (run_dir / name).unlink(missing_ok=True)


def _run_events(run_dir: Path, outer: EventLog) -> EventLog:
    path = run_dir / EVENTS
    if outer.path is not None and outer.path.absolute() == path:
        return outer

    def forward(event: dict[str, Any]) -> None:
        data = {key: value for key, value in event.items() if key not in ("type", "at")}
        outer.emit(event["type"], **data)

    return EventLog(path, forward)


def _make_trainer(
    spec: TrainSpec,
    base: Path,
    run_dir: Path,
    events: EventLog,
    stop: Callable[[], None],
    started: float | None,
) -> Any:
    import torch

    from slipway.training.at_eval import AtEval, answerer
    from slipway.training.estimate.foresee import foresee
    from slipway.training.methods import attach, load_dtype
    from slipway.training.model import load_base, pick_device, pick_dtype, prove_loss, set_threads
    from slipway.training.objectives import make_objective
    from slipway.training.token_sets import load_tokenizer_of, told_token_sets
    from slipway.training.trainer import Trainer

    set_threads(spec.threads)
    device = pick_device()
    dtype = pick_dtype(spec.dtype, device)
    tokenizer = load_tokenizer_of(spec, base)
    rows, heldout = told_token_sets(spec, tokenizer, events)
    foreseen = None if started is None else foresee(spec, rows, heldout, events, started)
    model = load_base(base, load_dtype(spec, dtype), device)
    difference = prove_loss(model, rows, device)
    torch.manual_seed(spec.seed)
    tuned = attach(model, spec, dtype)
    _tell_model(events, tuned, dtype, device, rows, heldout, difference)
    objective = make_objective(spec, tuned, rows, heldout)
    at_eval = AtEval(
        spec,
        run_dir,
        events,
        answer=answerer(spec, model, tokenizer, stop),
        state=tuned.state,
        restore=lambda state: tuned.load_state(state, run_dir / BEST_FOLDER),
        measured=objective.has_heldout,
    )
    return Trainer(
        spec,
        tuned,
        objective,
        run_dir=run_dir,
        events=events,
        stop=stop,
        at_eval=at_eval,
        foreseen=foreseen,
    )


def _tell_model(
    events: EventLog,
    tuned: Any,
    dtype: Any,
    device: Any,
    rows: Sequence[Any],
    heldout: Sequence[Any],
    difference: float,
) -> None:
    import torch

    trainable = sum(p.numel() for p in tuned.parameters)
    events.emit(
        "log",
        message=f"base in {str(dtype).removeprefix('torch.')} on {device}, "
        f"{trainable:,} trained weights on {', '.join(tuned.targets)}",
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        threads=torch.get_num_threads(),
        trained_weights=trainable,
        targets=tuned.targets,
        rows=len(rows),
        heldout_rows=len(heldout),
        packed_loss_difference=difference,
    )


def _finish(
    resolved: Resolved, run_dir: Path, trainer: Any, progress: Any, identity: dict[str, str]
) -> Manifest:
    from slipway.core.files import new_folder
    from slipway.datasets.templates import TEMPLATE_FILE
    from slipway.training import checkpoint
    from slipway.training.best import remove_best
    from slipway.training.curve import draw_curve
    from slipway.training.estimate.foresee import settle
    from slipway.training.token_sets import keep_template

    spec = resolved.spec
    base = Path(spec.model)
    made = trainer.tuned.artefact
    with new_folder(run_dir / made) as folder:
        names = trainer.tuned.save(folder, base)
        if keep_template(spec, base, folder) and TEMPLATE_FILE not in names:
            names.append(TEMPLATE_FILE)
    recipe = spec.model_dump(exclude_none=True)
    write_text(run_dir / RECIPE, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    draw_curve(run_dir / EVENTS, run_dir / CURVE, title=title_of(spec))
    metrics = {
        "base_eval_loss": progress.base_eval_loss,
        "eval_loss": progress.eval_loss,
        "best_eval_loss": progress.best_loss,
        "best_step": progress.best_step,
        "train_loss": progress.train_loss,
        "steps": progress.step,
        "tokens": progress.tokens,
        "tokens_per_s": round(progress.tokens / progress.step_seconds, 1),
        "seconds": round(progress.seconds, 2),
        "peak_memory_bytes": progress.peak_memory_bytes,
    }
    notes = {
        "identity": identity,
        "base_path": str(base),
        "plan": progress.plan.reason,
        "artefact": made,
    }
    if estimated := settle(trainer.foreseen, metrics, trainer.events):
        notes["estimate"] = estimated
    manifest = write_manifest(
        run_dir,
        "run",
        spec.label or run_dir.name,
        files=[*(f"{made}/{name}" for name in names), RECIPE],
        parents={key: identity[key] for key in ("base", "dataset", "adapter") if key in identity},
        config=resolved.settings(),
        versions=package_versions("torch", "transformers", "peft", "safetensors", "tokenizers"),
        metrics=metrics,
        notes=notes,
    )
    checkpoint.remove_all(run_dir)
    remove_best(run_dir)
    return manifest
