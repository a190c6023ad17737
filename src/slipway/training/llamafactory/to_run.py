"""Folders, evals, checkpoints and reports: from LLaMA Factory's keys to ours."""

from __future__ import annotations

from pathlib import Path

from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.training.llamafactory.draft import Draft

_PLACES = ("tensorboard", "swanlab", "wandb")


def put_run(draft: Draft) -> None:
    """Decide everything about what happens around the steps."""
    values = draft.values
    if not values.flag("do_train"):
        raise UsageError(
            "llamafactory.no_training",
            tr("{where}: `do_train` is not true, so nothing is trained", where=values.where.path),
            tr("add `do_train=true`; a trained model is measured with `slipway eval`"),
        )
    _folder(draft)
    _evals(draft)
    _saves(draft)
    _reports(draft)
    if values.has("run_name"):
        draft.put("label", values.text("run_name"), "run_name")
    for key in ("deepspeed", "fsdp"):
        if values.has(key) and values.get(key) not in ("", []):
            draft.put(key, _config_file(draft, key), key)


def _config_file(draft: Draft, key: str) -> str:
    values = draft.values
    if isinstance(values.get(key), str) and Path(values.text(key)).expanduser().is_file():
        return str(Path(values.text(key)).expanduser().resolve())
    raise values.wrong(key, tr("must be the path of a config file"))


def _folder(draft: Draft) -> None:
    values = draft.values
    if values.has("output_dir"):
        draft.run_dir = Path(values.text("output_dir")).expanduser().absolute()
    draft.fresh = values.flag("overwrite_output_dir")
    resume = values.get("resume_from_checkpoint")
    if resume in (None, False) or str(resume).lower() in ("true", "false"):
        return
    place = Path(str(resume)).expanduser().absolute()
    if draft.run_dir is None or draft.run_dir not in (place, *place.parents):
        raise draft.refuse(
            "resume_from_checkpoint",
            tr("a run goes on from the last checkpoint in its own `output_dir`"),
            tr("set `output_dir` to that run's folder"),
        )
    draft.fresh = False


def _evals(draft: Draft) -> None:
    values = draft.values
    old = "evaluation_strategy"
    key = old if values.has(old) else "eval_strategy"
    strategy = values.text(key)
    if strategy not in ("no", "steps", "epoch", "False", "false"):
        raise values.wrong(key, tr("must be one of {names}", names="no, steps, epoch"))
    every = 0
    if strategy == "steps":
        which = "eval_steps" if values.has("eval_steps") else "logging_steps"
        every = _steps(draft, which)
    draft.put("eval_every", every, key, "eval_steps")
    draft.put("eval_each_epoch", strategy == "epoch", key)
    best = values.flag("load_best_model_at_end")
    metric = values.text("metric_for_best_model") or "loss"
    if metric.removeprefix("eval_") != "loss" and (best or values.has("early_stopping_steps")):
        raise draft.refuse("metric_for_best_model", tr("the eval loss decides which is best"))
    if values.has("greater_is_better") and values.flag("greater_is_better"):
        raise draft.refuse("greater_is_better", tr("the eval loss decides which is best"))
    if best and strategy == "no":
        raise values.conflict(
            ("load_best_model_at_end", key), tr("without evals no model is the best")
        )
    draft.put("keep_best", best, "load_best_model_at_end", "metric_for_best_model")
    draft.copy("early_stopping_steps")


def _steps(draft: Draft, key: str) -> int:
    number = draft.values.number(key)
    if 0 < number < 1:
        raise draft.refuse(key, tr("steps are counted, not given as a part of the run"))
    return max(1, draft.values.whole(key))


def _saves(draft: Draft) -> None:
    values = draft.values
    strategy = values.text("save_strategy")
    if strategy not in ("no", "steps", "epoch", "best", "False", "false"):
        raise values.wrong("save_strategy", tr("must be one of {names}", names="no, steps, epoch"))
    every = _steps(draft, "save_steps") if strategy == "steps" else None
    draft.put("save_every_steps", every, "save_steps", "save_strategy")
    if values.has("save_total_limit"):
        draft.put("keep_checkpoints", max(1, values.whole("save_total_limit")), "save_total_limit")
    if values.has("save_steps") or values.has("save_strategy"):
        draft.note(
            tr(
                "checkpoints are kept for resuming, one a minute besides those asked for; the "
                "result of a finished run is its `adapter` or `model` folder"
            )
        )


def _reports(draft: Draft) -> None:
    values = draft.values
    names = [name for name in values.names("report_to") if name not in ("none", "None")]
    if values.flag("use_swanlab"):
        names.append("swanlab")
    for name in names:
        if name not in _PLACES:
            raise draft.refuse(
                "report_to",
                tr("metrics go to {names}", names=", ".join(_PLACES)),
                tr("name them, for example `report_to=tensorboard`"),
            )
    draft.put("report_to", sorted(set(names)), "report_to", "use_swanlab")
