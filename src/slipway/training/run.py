"""A training run from recipe to artefact folder: fresh, resumed, or already finished."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slipway.core.errors import (
    NotFoundError,
)
from slipway.core.events import EventLog
from slipway.core.files import sha256_json, write_text
from slipway.core.i18n import tr
from slipway.core.manifest import (
    Manifest,
    package_versions,
    read_manifest,
    write_manifest,
)
from slipway.training.endings import as_known, end_told
from slipway.training.folder import (
    ADAPTER,
    BEST_FOLDER,
    CURVE,
    EVENTS,
    MODEL,
    RECIPE,
    REFERENCE,
    only_one,
    stop_flag,
    write_settings,
)
from slipway.training.obeyed import require_obeyed
from slipway.training.observers import observed, title_of
from slipway.training.run_state import state_of
from slipway.training.spec import Resolved, TrainSpec

if TYPE_CHECKING:
    from slipway.training.world import World


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
    from slipway.training.world import joined

    try:
        with joined() as world, _claimed(run_dir, world), stop_flag(run_dir) as stop:
            outer = events if world.is_chief else EventLog(None)
            return _train(resolved, run_dir.absolute(), outer, resume, stop, world)
    except (OSError, MemoryError, RuntimeError) as error:
        known = as_known(error, resolved, run_dir)
        if known is None:
            raise
        raise known from error


@contextmanager
def _claimed(run_dir: Path, world: World) -> Iterator[None]:
    """The folder belongs to this run; the chief's lock holds for all."""
    if not world.is_chief:
        yield
        return
    with only_one(run_dir):
        yield


def _train(
    resolved: Resolved,
    run_dir: Path,
    outer: EventLog,
    resume: bool,
    stop: Callable[[], None],
    world: World,
) -> RunResult:
    from slipway.training import checkpoint
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
    with world.one_first():
        fetch_data(spec, outer)
    state = state_of(spec, base, run_dir, outer, resume) if world.is_chief else None
    state = world.share(state)
    assert state is not None
    if state.finished:
        return RunResult(run_dir, state.finished, int(state.finished.metrics["steps"]))
    events = outer
    if world.is_chief:
        write_settings(run_dir, resolved)
        events = _run_events(run_dir, outer)
    watched = observed(resolved, run_dir, events) if world.is_chief else nullcontext()
    with end_told(events, resolved, run_dir), watched:
        found = state.found
        setting = _setting(run_dir, state.identity, stop, events, world)
        trainer = _make_trainer(
            spec, base, run_dir, events, stop, None if found else started, world, setting
        )
        for reason in state.damaged:
            events.emit("log", message=f"passed over a damaged checkpoint: {reason}")
        if found:
            folder, progress = found
            trainer.prepare_objective(progress.plan.total_steps)  # while the weights are the base's
            checkpoint.restore(folder, trainer.tuned, trainer.optimizer, rank=world.rank)
            events.emit("state", state="resumed", step=progress.step)
        else:
            events.emit("state", state="started", step=0)
            progress = trainer.prepare(state.identity, started)
        first_step = progress.step
        progress = trainer.run(progress)
        trainer.tuned.gather(world.is_chief)
        if world.is_chief:
            _finish(resolved, run_dir, trainer, progress, state.identity)
        world.barrier()
        manifest = read_manifest(run_dir, kind="run")
    events.emit("state", state="finished", step=progress.step, metrics=manifest.metrics)
    return RunResult(run_dir, manifest, first_step)


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
    world: World,
    setting: Any,
) -> Any:
    import torch

    from slipway.training.at_eval import AtEval, answerer
    from slipway.training.estimate.foresee import foresee
    from slipway.training.made import make_tuned
    from slipway.training.model import pick_device, pick_dtype, set_threads
    from slipway.training.objectives import make_objective
    from slipway.training.token_sets import load_tokenizer_of, part_of, told_token_sets
    from slipway.training.trainer import Trainer

    set_threads(spec.threads, world.local_size)
    device = pick_device()
    dtype = pick_dtype(spec.dtype, device)
    tokenizer = load_tokenizer_of(spec, base)
    with world.one_first():
        rows, heldout = told_token_sets(spec, tokenizer, events)
    foreseen = None
    if started is not None and world.is_chief:
        foreseen = foresee(spec, rows, heldout, events, started)
    tuned = make_tuned(spec, base, rows, heldout, dtype, device, events, run_dir, foreseen, world)
    if world.in_step:
        setting = replace(setting, in_step=world)
    if world.size > 1:  # else all would drop the same units
        torch.manual_seed(spec.seed * world.size + world.rank)
    objective = make_objective(spec, tuned, rows, part_of(spec, heldout, world), setting)
    at_eval = AtEval(
        spec,
        run_dir,
        events,
        answer=answerer(spec, tuned.model, tokenizer, stop),
        state=tuned.state,
        restore=lambda state: tuned.load_state(state, run_dir / BEST_FOLDER),
        measured=bool(len(heldout)),
        is_chief=world.is_chief,
        all_ask=tuned.is_split,
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
        world=world,
    )


def _setting(
    run_dir: Path,
    identity: dict[str, str],
    stop: Callable[[], None],
    events: EventLog,
    world: World,
) -> Any:
    """What an objective knows of its run. Each process keeps what its own units need."""
    from slipway.training.objectives import Setting

    part = f"{sha256_json(identity)[:16]}/{world.rank}-of-{world.size}"
    alone = stop if world.size == 1 else lambda: None  # several stop together, between steps
    return Setting(run_dir / REFERENCE / part, alone, partial(_tell_reference, events), world.sum)


def _tell_reference(events: EventLog, done: int, total: int) -> None:
    events.emit("log", message=f"reference: {done:,} of {total:,} rows", rows=done, total=total)


def _finish(
    resolved: Resolved, run_dir: Path, trainer: Any, progress: Any, identity: dict[str, str]
) -> Manifest:
    from slipway.core.files import new_folder
    from slipway.datasets.templates import TEMPLATE_FILE
    from slipway.training import checkpoint
    from slipway.training.best import remove_best
    from slipway.training.curve import draw_curve
    from slipway.training.estimate.foresee import settle
    from slipway.training.quantised import held_as
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
    if spec.quant.bits:
        notes["base_held"] = held_as(spec.quant)
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
    shutil.rmtree(run_dir / REFERENCE, ignore_errors=True)
    return manifest
