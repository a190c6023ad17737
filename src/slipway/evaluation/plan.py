"""What an evaluation is to do, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.core.errors import UsageError
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.evaluation.bootstrap import RESAMPLES
from slipway.evaluation.generation import Generation
from slipway.evaluation.judge import Judge
from slipway.evaluation.models import Model
from slipway.evaluation.run_data import Part, RunData

RESULTS = "results.json"
REPORT = "report.md"
PREDICTIONS = "predictions"
CHOICES = "choices"


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """A multiple-choice set.

    Attributes:
        folder: with `dev`, `val`, `test`.
        part: which of them; None for the one that has answers.
        shots: examples before each question.
        subjects: only these; empty for all.
        rows: at most so many of each subject.
    """

    folder: Path
    part: str | None = None
    shots: int = 5
    subjects: tuple[str, ...] = ()
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """An evaluation.

    Attributes:
        models: the baseline first.
        out_dir: where everything goes; what an interrupted evaluation left there is kept.
        data: dataset folder or file, or what a run keeps; None when only choices or lm-eval are
            wanted.
        part: which part of a dataset folder.
        rows: at most so many, evenly over the whole; None for all.
        system: a system turn for every prompt; None leaves the rows' own.
        losses, answers: what to measure on `data`.
        cutoff_len: longest conversation for the loss, tokens.
        batch: prompts answered at once by a model in memory.
        at_once: requests at once to a server.
        server: the program that serves a GGUF, with its first arguments.
        lf: add LLaMA Factory's scores.
        seed, resamples: of the bootstrap.
        template: name of a chat template for models in memory that have none.
        lm_eval: task names for lm-eval; empty for none.
        lm_eval_tasks: a folder with task definitions of your own for it.
    """

    models: tuple[Model, ...]
    out_dir: Path
    data: Path | RunData | None = None
    part: Part = "heldout"
    rows: int | None = None
    system: str | None = None
    generation: Generation = field(default_factory=Generation)
    losses: bool = True
    answers: bool = True
    cutoff_len: int = 1024
    batch: int = 8
    at_once: int = 8
    server: tuple[str, ...] = ()
    lf: bool = False
    seed: int = 0
    resamples: int = RESAMPLES
    choices: ChoicePlan | None = None
    judge: Judge | None = None
    lm_eval: tuple[str, ...] = ()
    lm_eval_tasks: Path | None = None
    dtype: str = "auto"
    template: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError(
                "eval.no_model_named",
                tr("no model was named"),
                tr("try `slipway eval RUN --data DATASET`"),
            )
        if self.data is None and self.choices is None and not self.lm_eval:
            raise UsageError(
                "eval.nothing",
                tr("there is nothing to evaluate on"),
                tr("name a dataset with `--data`, a multiple-choice set with `--choices`, or tasks "
                   "with `--lm-eval`"),
            )  # fmt: skip
        if self.judge and (len(self.models) < 2 or self.data is None or not self.answers):
            raise UsageError(
                "eval.nothing_to_judge",
                tr("a judge compares the answers of two models to `--data`"),
            )

    def settings(self) -> dict[str, Any]:
        """Everything but the models that the numbers depend on, as `results.json` holds it."""
        choices = self.choices
        return {
            "data": str(self.data) if self.data else None,
            "part": self.part,
            "rows": self.rows,
            "system": self.system,
            "losses": self.losses,
            "answers": self.answers,
            **self.generation.as_json(),
            "cutoff_len": self.cutoff_len,
            "batch": self.batch,
            "choices": str(choices.folder) if choices else None,
            "choices_part": choices.part if choices else None,
            "shots": choices.shots if choices else None,
            "subjects": list(choices.subjects) if choices else [],
            "choice_rows": choices.rows if choices else None,
            "judge": self.judge.identity() if self.judge else None,
            "lm_eval": list(self.lm_eval),
            "lm_eval_tasks": str(self.lm_eval_tasks) if self.lm_eval_tasks else None,
            "resamples": self.resamples,
            "bootstrap_seed": self.seed,
            "dtype": self.dtype,
            "template": self.template,
            "lf": self.lf,
        }


# settings that change no answer, letter or loss: with another judge or more resamples an
# evaluation goes on in the same folder
_SAME_FOLDER = frozenset(
    {"losses", "answers", "judge", "lm_eval", "lm_eval_tasks", "resamples", "bootstrap_seed", "lf"}
)


def folder_name(models: tuple[Model, ...], settings: dict[str, Any]) -> str:
    """A folder name for an evaluation: readable, and its own for other models or settings.

    So the same command goes on where it was, and another never finds foreign answers.
    """
    kept = {name: value for name, value in settings.items() if name not in _SAME_FOLDER}
    if not settings["temperature"]:
        del kept["batch"]  # nothing is drawn
    identity = sha256_json([[m.label, m.digest] for m in models] + [kept])
    return f"{models[-1].label}-eval-{identity[:8]}"
