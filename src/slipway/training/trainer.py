"""The training loop: a model, its optimiser, and the steps of a plan."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch

from slipway.core.errors import ProofError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.training import checkpoint
from slipway.training.at_eval import AtEval, end_if_asked
from slipway.training.checkpoint import Progress
from slipway.training.estimate import Estimate
from slipway.training.memory import memory, peak_memory
from slipway.training.methods import Tuned, make_optimizer
from slipway.training.objectives import Objective, StepSums
from slipway.training.plan import (
    Costs,
    learning_rate,
    make_plan,
    shortened,
    step_rows,
    steps_in_epochs,
)
from slipway.training.sharding.split import clip_, optimizer_state
from slipway.training.spec import TrainSpec
from slipway.training.world import World

_PROBE_STEPS = 5
_FINISH_S = 3.0  # manifest, adapter files, loss curve


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimiser step: its mean loss, gradient norm before clipping, tokens."""

    loss: float
    grad_norm: float
    tokens: int
    extra: dict[str, float] = field(default_factory=dict)


def _never() -> None:
    """Stop nothing."""


class Trainer:
    """Runs the steps of one training run; owns the optimiser and the progress.

    It knows neither the method nor the stage: `tuned` has the weights, `objective` their gradient.

    Args:
        stop: called often; raises KeyboardInterrupt when the user wants to stop.
        at_eval: what else is done at each eval; nothing without it.
        foreseen: what the run was estimated to need.
        world: the processes that train together.
    """

    def __init__(
        self,
        spec: TrainSpec,
        tuned: Tuned,
        objective: Objective,
        *,
        run_dir: Path,
        events: EventLog,
        stop: Callable[[], None],
        at_eval: AtEval | None = None,
        foreseen: Estimate | None = None,
        world: World | None = None,
    ) -> None:
        self.spec, self.tuned, self.objective = spec, tuned, objective
        self.world = world or World()
        self.run_dir, self.events, self.stop = run_dir, events, stop
        # packs of a step differ in number from process to process: among several, all stop
        # together between steps
        self._stop_in_step = stop if self.world.size == 1 else _never
        self._stop_together = self.world.agreeing(stop)
        self.at_eval, self.foreseen = at_eval, foreseen
        self.model = tuned.model
        self.device = next(self.model.parameters()).device
        self.parameters = tuned.parameters
        self.optimizer = make_optimizer(spec, tuned)
        self.lengths = objective.lengths
        self._all_save = tuned.is_split

    def rows_from(self, step: int) -> Iterator[tuple[int, list[int]]]:
        """(epoch, row numbers) of each step after `step`."""
        spec = self.spec
        steps = step_rows(self.lengths, spec.batch_tokens, spec.seed, spec.batch_rows)
        return islice(steps, step, None)

    def _part_of(self, numbers: Sequence[int]) -> StepSums:
        """This process's part of a step."""
        mine = self.world.part(numbers)
        if not (mine or self.objective.collective or self.world.in_step):
            return StepSums(0.0, 0)
        return self.objective.gradients(mine, self._stop_in_step)

    def step(self, numbers: Sequence[int], rate: float) -> StepResult:
        """One optimiser step.

        Raises:
            ProofError: the loss or the gradient is not a finite number; nothing was changed.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_ratio"]
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.world.combine(self._part_of(numbers), self.parameters)
        norm = clip_(self.parameters, self.spec.max_grad_norm)
        if not (math.isfinite(sums.loss) and math.isfinite(norm)):
            raise ProofError(
                "train.not_finite",
                tr("the loss became {loss} (gradient norm {norm})", loss=sums.loss, norm=norm),
                tr(
                    "train anew with a lower rate, for example `slipway train ... "
                    "learning_rate={rate:g}` and a new --run-dir",
                    rate=self.spec.learning_rate / 4,
                ),
            )
        self.optimizer.step()
        return StepResult(sums.loss, norm, sums.tokens, sums.extra)

    def measure(self) -> float:
        """Tokens per second of a step, forward and backward, without changing anything.

        The rows are those of the first steps. The first is a warm-up; of the others the median
        is taken, so that another program's burst does not shorten the whole run.
        """
        state = torch.get_rng_state()
        speeds = []
        for _, numbers in islice(self.rows_from(0), _PROBE_STEPS + 1):
            start = time.perf_counter()
            self._stop_together()
            (tokens,) = self.world.sum(self._part_of(numbers).tokens)
            self.optimizer.zero_grad(set_to_none=True)
            speeds.append(tokens / (time.perf_counter() - start))
        torch.set_rng_state(state)
        return statistics.median(speeds[1:])

    def _steps(self, epochs: float, limit: int | None) -> int:
        spec = self.spec
        return steps_in_epochs(
            self.lengths, spec.batch_tokens, spec.seed, epochs, limit, spec.batch_rows
        )

    def prepare_objective(self, steps: int) -> None:
        """Let the objective know its units of so many steps, while the weights are the base's."""
        found: set[int] = set()
        for _, numbers in islice(self.rows_from(0), steps):
            found.update(self.world.part(numbers))
            if len(found) == len(self.lengths):
                break
        self.objective.prepare(sorted(found))

    def evaluate(self, step: int) -> float | None:
        """Eval loss on the held-out rows, told as an event; None without such rows."""
        start = time.perf_counter()
        result = self.world.combine_eval(self.objective.evaluate(self._stop_in_step))
        if result is None:
            return None
        self.events.emit(
            "metric",
            kind="eval",
            step=step,
            loss=round(result.loss, 6),
            **result.extra,
            seconds=round(time.perf_counter() - start, 3),
        )
        return result.loss

    def prepare(self, identity: dict[str, str], started: float) -> Progress:
        """Base eval, measurement and plan: the state before the first step.

        Args:
            started: `time.perf_counter()` at the start of the run; the budget counts from there.
        """
        spec = self.spec
        by_epochs = self._steps(spec.epochs, spec.max_steps)
        eval_every = self._steps(1, None) if spec.eval_each_epoch else spec.eval_every
        plan = make_plan(by_epochs, max_steps=spec.max_steps, eval_every=eval_every)
        self.objective.prepare(())
        start = time.perf_counter()
        probed = min(_PROBE_STEPS + 1, plan.total_steps)
        self.prepare_objective(plan.total_steps if spec.time_budget_s is None else probed)
        prepare_s = (time.perf_counter() - start) / probed
        start = time.perf_counter()
        base_loss = self.evaluate(0)
        if self.at_eval:
            self.at_eval.samples(0)
        eval_s = time.perf_counter() - start
        progress = Progress(0, plan, identity, base_eval_loss=base_loss, eval_loss=base_loss)
        if spec.time_budget_s is not None:
            speed = self.measure()
            step_s = sum(self.lengths) / self._steps(1, None) / speed + prepare_s
            start = time.perf_counter()
            if self._write(progress):
                checkpoint.remove_all(self.run_dir)
            costs = Costs(step_s, eval_s, time.perf_counter() - start, _FINISH_S)
            left = spec.time_budget_s - (time.perf_counter() - started)
            plan = make_plan(
                by_epochs,
                max_steps=spec.max_steps,
                eval_every=eval_every,
                seconds_left=left,
                costs=costs,
                save_every_s=spec.save_every_s,
                tokens_per_s=round(speed, 1),
            )
        plan = self.world.share(plan)
        if spec.time_budget_s is not None:
            self.prepare_objective(plan.total_steps)
        self.events.emit(
            "log",
            message=(
                f"plan: {plan.total_steps} steps (limited by {plan.reason}), "
                f"eval every {plan.eval_every}"
                + (f", {plan.tokens_per_s:.0f} tokens/s measured" if plan.tokens_per_s else "")
            ),
            total_steps=plan.total_steps,
            eval_every=plan.eval_every,
            reason=plan.reason,
            tokens_per_s=plan.tokens_per_s,
            time_budget_s=spec.time_budget_s,
        )
        seconds = time.perf_counter() - started
        progress = replace(progress, plan=replace(plan, prepared_s=seconds), seconds=seconds)
        self._write(progress)
        return progress

    def run(self, progress: Progress) -> Progress:
        """Every step from `progress` to the end of its plan, with evals and checkpoints.

        An interrupt between steps saves a checkpoint first; one within a step leaves the weights
        as they were before that step, and saves those.
        """
        begun = time.perf_counter() - progress.seconds
        saved_at, saved_step = time.monotonic(), progress.step
        self.model.train()
        gc.collect()
        rows = self.rows_from(progress.step)
        try:
            while progress.step < progress.plan.total_steps:
                epoch, numbers = next(rows)
                start = time.perf_counter()
                self._stop_together()
                rate = self._rate(progress)
                result = self.step(numbers, rate)
                now = time.perf_counter()
                progress = self._advance(progress, result, now - begun, now - start)
                self._tell(progress, result, epoch, rate, now - start)
                plan = progress.plan
                progress = self.world.share(end_if_asked(progress, self.run_dir, self.events))
                progress = self._evaluate_if_due(progress)
                progress = self._shorten_if_late(progress, time.perf_counter() - begun)
                progress, due = self.world.share(
                    (progress, self._is_due(progress.step, saved_at) or progress.plan != plan)
                )
                if due:
                    self._save(progress, begun)
                    saved_at, saved_step = time.monotonic(), progress.step
            # an interrupt may have come between the last step and its eval
            progress = self._evaluate_if_due(progress)
        except KeyboardInterrupt:
            if progress.step != saved_step:
                self._save(progress, begun)
            raise
        self._save(progress, begun)
        progress = replace(progress, seconds=time.perf_counter() - begun)
        return self.at_eval.finish(progress) if self.at_eval else progress

    def _shorten_if_late(self, progress: Progress, seconds: float) -> Progress:
        budget = self.spec.time_budget_s
        if budget is None:
            return progress
        plan = shortened(progress.plan, progress.step, seconds, budget, _FINISH_S)
        if plan == progress.plan:
            return progress
        self.events.emit(
            "log",
            message=f"plan: cut from {progress.plan.total_steps} to {plan.total_steps} steps, "
            "as the machine became slower than measured",
            total_steps=plan.total_steps,
            was=progress.plan.total_steps,
        )
        return replace(progress, plan=plan)

    def _rate(self, progress: Progress) -> float:
        return learning_rate(
            progress.step + 1,
            progress.plan.total_steps,
            peak=self.spec.learning_rate,
            warmup_ratio=self.spec.warmup_ratio,
            schedule=self.spec.schedule,
            warmup_steps=self.spec.warmup_steps,
            min_ratio=self.spec.min_lr_ratio,
        )

    def _evaluate_if_due(self, progress: Progress) -> Progress:
        plan, step = progress.plan, progress.step
        due = step % plan.eval_every == 0 or step == plan.total_steps
        if not due or progress.evaluated == step:
            return progress
        progress = replace(progress, eval_loss=self.evaluate(step), evaluated=step)
        return self.at_eval.after(progress) if self.at_eval else progress

    def _is_due(self, step: int, saved_at: float) -> bool:
        every = self.spec.save_every_steps
        by_steps = every is not None and step % every == 0
        return by_steps or time.monotonic() - saved_at >= self.spec.save_every_s

    def _write(self, progress: Progress) -> Path | None:
        """Write a checkpoint; the chief's work, for which it needs all."""
        random = self.world.gather(checkpoint.random_state())
        parts = (self.tuned.state(), optimizer_state(self.optimizer)) if self._all_save else None
        if not self.world.is_chief:
            return None
        trained, optimizer = parts or (self.tuned.state(), self.optimizer.state_dict())
        return checkpoint.save(
            self.run_dir,
            progress,
            trained,
            optimizer,
            keep=self.spec.keep_checkpoints,
            random=random,
        )

    def _save(self, progress: Progress, begun: float) -> None:
        progress = replace(progress, seconds=time.perf_counter() - begun)
        folder = self._write(progress)
        self.events.emit("artefact", kind="checkpoint", step=progress.step, path=str(folder))

    def _advance(
        self, progress: Progress, result: StepResult, seconds: float, step_s: float
    ) -> Progress:
        smooth = progress.train_loss
        return replace(
            progress,
            step=progress.step + 1,
            tokens=progress.tokens + result.tokens,
            train_loss=result.loss if smooth is None else 0.9 * smooth + 0.1 * result.loss,
            peak_memory_bytes=max(progress.peak_memory_bytes, peak_memory(self.device)),
            seconds=seconds,
            step_seconds=progress.step_seconds + step_s,
        )

    def _tell(
        self, progress: Progress, result: StepResult, epoch: int, rate: float, step_s: float
    ) -> None:
        left = progress.plan.total_steps - progress.step
        per_step = (progress.seconds - progress.plan.prepared_s) / progress.step
        self.events.emit(
            "metric",
            kind="train",
            step=progress.step,
            total_steps=progress.plan.total_steps,
            epoch=epoch,
            loss=round(result.loss, 6),
            lr=rate,
            grad_norm=round(result.grad_norm, 5),
            **{name: round(value, 6) for name, value in result.extra.items()},
            tokens=progress.tokens,
            tokens_per_s=round(result.tokens / step_s, 1),
            eta_s=round(left * per_step, 1),
            memory_bytes=memory(self.device),
        )
