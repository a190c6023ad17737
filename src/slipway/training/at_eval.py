"""What a run does at each eval, besides measuring: the best state, early stopping, samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.training.best import Best, load_best, save_best
from slipway.training.checkpoint import Progress
from slipway.training.folder import keep_asked
from slipway.training.samples import answers
from slipway.training.spec import TrainSpec

State = dict[str, Any]


class AtEval:
    """Decides at each eval of one run what follows from it.

    Args:
        answer: gives (prompt, answer) for each of the recipe's prompts, with the model as it is.
        state, restore: the trained tensors, read and put back.
        measured: whether there are held-out rows to measure a loss on.
        is_chief: whether this process writes what is kept.
        all_ask: the model is split, so that every process must take part in reading it.

    Raises:
        UsageError: the recipe wants a decision by the eval loss, which is not measured.
    """

    def __init__(
        self,
        spec: TrainSpec,
        run_dir: Path,
        events: EventLog,
        *,
        answer: Callable[[], list[tuple[str, str]]],
        state: Callable[[], State],
        restore: Callable[[State], None],
        measured: bool,
        is_chief: bool = True,
        all_ask: bool = False,
    ) -> None:
        wanted = [key for key in ("keep_best", "early_stopping") if getattr(spec, key)]
        if wanted and not measured:
            raise UsageError(
                "train.no_eval_rows",
                tr("`{keys}` needs an eval loss, and no rows are held out", keys=", ".join(wanted)),
                tr("give eval_data, or put rows into the dataset's heldout.jsonl"),
            )
        self._spec, self._run_dir, self._events = spec, run_dir, events
        self._is_chief, self._all_ask = is_chief, all_ask
        self._answer, self._state, self._restore = answer, state, restore

    def samples(self, step: int) -> None:
        """Tell the answers to the recipe's prompts as events."""
        if not (self._is_chief or self._all_ask):
            return
        for prompt, text in self._answer():
            self._events.emit("sample", step=step, prompt=prompt, answer=text)

    def after(self, progress: Progress) -> Progress:
        """The progress after its newest eval: best state kept, and the plan ended when it is over.

        The best state is kept before the checkpoint of the same step: a kill in between repeats
        the steps, and keeps it again.
        """
        self.samples(progress.step)
        if progress.eval_loss is None:
            return progress
        best = best_of(progress).after(progress.step, progress.eval_loss)
        progress = replace(
            progress, best_loss=best.loss, best_step=best.step, since_best=best.since
        )
        if self._spec.keep_best and best.step == progress.step:
            state = self._state() if self._is_chief or self._all_ask else {}
            if self._is_chief:
                save_best(self._run_dir, progress.step, state)
        if best.is_over(self._spec.early_stopping) and progress.step < progress.plan.total_steps:
            return ended(progress, "early_stopping", self._events)
        return progress

    def finish(self, progress: Progress) -> Progress:
        """At the end of a run with `keep_best`: the model as it was at its best."""
        if not self._spec.keep_best or progress.best_loss is None:
            return progress
        if progress.best_step != progress.step:
            self._restore(load_best(self._run_dir))
            self._events.emit(
                "log",
                message=f"the result is the state of step {progress.best_step}, "
                f"eval loss {progress.best_loss:.4f} (at the end {progress.eval_loss:.4f})",
                best_step=progress.best_step,
            )
        return replace(progress, eval_loss=progress.best_loss)


def best_of(progress: Progress) -> Best:
    """The evals so far, as the progress has them."""
    return Best(progress.best_loss, progress.best_step, progress.since_best)


def ended(progress: Progress, reason: Any, events: EventLog) -> Progress:
    """The progress with its plan cut at the step in hand."""
    was = progress.plan.total_steps
    events.emit(
        "log",
        message=f"plan: ends at step {progress.step} of {was} ({reason})",
        total_steps=progress.step,
        was=was,
        reason=reason,
    )
    return replace(progress, plan=replace(progress.plan, total_steps=progress.step, reason=reason))


def end_if_asked(progress: Progress, run_dir: Path, events: EventLog) -> Progress:
    """The plan cut at the step in hand when somebody wants to keep what the run has."""
    if progress.step >= progress.plan.total_steps or not keep_asked(run_dir):
        return progress
    return ended(progress, "kept", events)


def answerer(
    spec: TrainSpec, model: Any, tokenizer: Any, stop: Callable[[], None]
) -> Callable[[], list[tuple[str, str]]]:
    """A function that gives the model's answers to the recipe's prompts."""

    def answer() -> list[tuple[str, str]]:
        found = answers(
            model,
            tokenizer,
            spec.sample_prompts,
            plain=spec.stage == "pt",
            system=spec.system,
            stop=stop,
        )
        return [(a.prompt, a.text if a.ended else f"{a.text} …") for a in found]

    return answer
