"""An evaluation from plan to result folder: measure each model, compare, judge, write."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.core.events import EventLog
from slipway.core.files import locked, write_json, write_text
from slipway.core.i18n import current_language
from slipway.core.manifest import Setting, package_versions, write_manifest
from slipway.evaluation import metrics
from slipway.evaluation.choice_scores import accuracy, by_subject
from slipway.evaluation.choices import ChoiceSet, read_choices
from slipway.evaluation.comparison import (
    Scored,
    changed_rows,
    differences,
    intervals,
    write_row_differences,
)
from slipway.evaluation.judge import judge_pair
from slipway.evaluation.models import Model
from slipway.evaluation.plan import CHOICES, PREDICTIONS, REPORT, RESULTS, Plan
from slipway.evaluation.predictions import Prediction
from slipway.evaluation.questions import QuestionSet, read_questions
from slipway.evaluation.report import markdown
from slipway.evaluation.work import ModelWork
from slipway.export.parts import Parts

_MADE = (PREDICTIONS, CHOICES, "parts", "judge", "rows", "lm_eval")


@dataclass(slots=True)
class _Findings:
    """What was measured of one model."""

    scored: Scored
    predictions: dict[str, Prediction] = field(default_factory=dict)
    choices: dict[str, Any] | None = None
    cut: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    seconds: float = 0.0


def evaluate(plan: Plan, *, events: EventLog | None = None, fresh: bool = False) -> dict[str, Any]:
    """Do all that the plan says and write `results.json`, `report.md` and a manifest.

    What an interrupted evaluation of the same plan left in the folder is used, answer by answer.

    Args:
        events: "progress" events with stage "eval", part, done, total.
        fresh: remove what is in the folder first.

    Returns:
        the content of `results.json`; see `docs/evaluation.md`.

    Raises:
        ConflictError: the folder holds answers of another model, dataset or setting.
        SlipwayError: a model, row, file or server cannot be used.
    """
    log = events or EventLog(None)
    with locked(plan.out_dir):
        if fresh:
            _clear(plan)
        questions = _questions(plan)
        choices = _choices(plan)
        found = {m.label: _measure(plan, m, questions, choices, log) for m in plan.models}
        results = _results(plan, questions, choices, found)
        _compare(plan, found, results, log)
        if plan.lm_eval:
            from slipway.evaluation.harness import run_tasks

            results["lm_eval"] = run_tasks(plan, log)
        _write(plan, questions, choices, results)
    return results


def _clear(plan: Plan) -> None:
    (plan.out_dir / "manifest.json").unlink(missing_ok=True)
    for name in (RESULTS, REPORT):
        (plan.out_dir / name).unlink(missing_ok=True)
    for name in _MADE:
        shutil.rmtree(plan.out_dir / name, ignore_errors=True)


def _questions(plan: Plan) -> QuestionSet | None:
    if plan.data is None:
        return None
    return read_questions(plan.data, part=plan.part, rows=plan.rows, system=plan.system)


def _choices(plan: Plan) -> ChoiceSet | None:
    c = plan.choices
    if c is None:
        return None
    return read_choices(c.folder, part=c.part, shots=c.shots, subjects=c.subjects, rows=c.rows)


def _measure(
    plan: Plan,
    model: Model,
    questions: QuestionSet | None,
    choices: ChoiceSet | None,
    log: EventLog,
) -> _Findings:
    started = time.monotonic()
    parts = Parts(plan.out_dir / "parts", log, total=len(plan.models))
    found = _Findings(Scored(model.label, {}, {}))
    with ModelWork(plan, model, questions, choices, log) as work:
        if questions and plan.losses and model.has_weights:
            lost = work.losses(parts)
            measured = metrics.losses([(loss, tokens) for _, loss, tokens in lost["rows"]])
            _add(found, measured, [key for key, _, _ in lost["rows"]])
            found.cut, found.dropped = lost["cut"], lost["dropped"]
        if questions and plan.answers and questions.questions:
            answers = work.answers()
            found.predictions = {p.id: p for p in answers}
            texts = metrics.score_texts(
                [p.predict for p in answers], [p.label for p in answers], lf=plan.lf
            )
            _add(found, texts, list(found.predictions))
        if choices:
            given = work.chosen()
            _add(
                found,
                {"accuracy": accuracy(choices.choices, given)},
                [c.id for c in choices.choices],
            )
            found.choices = by_subject(choices.choices, given)
    found.seconds = round(time.monotonic() - started, 2)
    return found


def _add(found: _Findings, measured: Mapping[str, metrics.Measured], ids: list[str]) -> None:
    old = found.scored
    found.scored = Scored(
        old.label, {**old.metrics, **measured}, {**old.ids, **dict.fromkeys(measured, ids)}
    )


def _results(
    plan: Plan,
    questions: QuestionSet | None,
    choices: ChoiceSet | None,
    found: Mapping[str, _Findings],
) -> dict[str, Any]:
    models = {}
    for model in plan.models:
        mine = found[model.label]
        answers = list(mine.predictions.values())
        models[model.label] = {
            **model.as_json(),
            "metrics": intervals(mine.scored, seed=plan.seed, resamples=plan.resamples),
            "answered": len(answers),
            "failed": [{"id": p.id, "error": p.error} for p in answers if p.error],
            "loss_cut": mine.cut,
            "loss_dropped": mine.dropped,
            "cut": sum(p.finish == "length" for p in answers),
            "answer_tokens": sum(p.tokens or 0 for p in answers),
            "choices": mine.choices,
            "seconds": mine.seconds,
        }
    return {
        "schema": 1,
        "baseline": plan.models[0].label,
        "models": models,
        "differences": {},
        "verdicts": {},
        "changed": {},
        "judge": {},
        "lm_eval": {},
        "data": {
            "digest": questions.digest if questions else None,
            "rows": len(questions.samples) if questions else 0,
            "left_out": questions.left_out if questions else [],
            "choices_digest": choices.digest if choices else None,
            "choices": len(choices.choices) if choices else 0,
            "choices_part": choices.part if choices else None,
            "without_category": choices.unsorted if choices else [],
        },
        "settings": plan.settings(),
    }


def _compare(
    plan: Plan, found: Mapping[str, _Findings], results: dict[str, Any], log: EventLog
) -> None:
    baseline = found[plan.models[0].label]
    for model in plan.models[1:]:
        mine = found[model.label]
        label = model.label
        changes = differences(
            mine.scored, baseline.scored, seed=plan.seed, resamples=plan.resamples
        )
        results["differences"][label] = {name: d.as_json() for name, d in changes.items()}
        results["verdicts"][label] = [
            d.sentence(label, baseline.scored.label).en for d in changes.values()
        ]
        results["changed"][label] = changed_rows(mine.scored, baseline.scored)
        write_row_differences(
            plan.out_dir / "rows" / f"{label}.jsonl",
            mine.scored,
            baseline.scored,
            mine.predictions,
            baseline.predictions,
        )
        if plan.judge:
            results["judge"][label] = judge_pair(
                plan.judge,
                list(baseline.predictions.values()),
                list(mine.predictions.values()),
                plan.out_dir / "judge" / f"{label}-{plan.judge.name}.jsonl",
                seed=plan.seed,
                resamples=plan.resamples,
                on_verdict=lambda done, total: log.emit(
                    "progress",
                    stage="eval",
                    part="judge",
                    done=done,
                    total=total,
                    fraction=done / total,
                ),
            )


def _write(
    plan: Plan,
    questions: QuestionSet | None,
    choices: ChoiceSet | None,
    results: dict[str, Any],
) -> None:
    write_json(plan.out_dir / RESULTS, results)
    write_text(plan.out_dir / REPORT, markdown(results, language=current_language()))
    parents = {}
    for model in plan.models:
        parents[model.label] = model.digest
        parents |= {f"{model.label}:{role}": digest for role, digest in model.parents.items()}
    if questions:
        parents["dataset"] = questions.digest
    if choices:
        parents["choices"] = choices.digest
    files = [RESULTS] + [
        str(path.relative_to(plan.out_dir))
        for folder in (PREDICTIONS, CHOICES)
        for path in sorted((plan.out_dir / folder).glob("*.jsonl"))
    ]
    write_manifest(
        plan.out_dir,
        "evaluation",
        plan.out_dir.name,
        files=files,
        parents=parents,
        config={name: Setting(value, "flag") for name, value in plan.settings().items()},
        versions=package_versions("torch", "transformers", "jieba", "xllamacpp"),
        metrics={"seconds": round(sum(m["seconds"] for m in results["models"].values()), 1)},
    )
