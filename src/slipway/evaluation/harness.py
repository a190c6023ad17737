"""Tasks of EleutherAI's lm-eval, when it is installed, run as a program of its own.

The tasks' data come from where lm-eval takes them (usually the Hugging Face hub).
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slipway.core import process
from slipway.core.errors import ToolError, UsageError, missing_extra
from slipway.core.events import EventLog
from slipway.core.files import sha256_json
from slipway.core.i18n import tr
from slipway.evaluation.models import Model
from slipway.evaluation.plan import Plan
from slipway.export.parts import Parts


def run_tasks(plan: Plan, log: EventLog) -> dict[str, dict[str, dict[str, float]]]:
    """Label -> task -> metric -> value. A model that was measured before is not run again.

    Raises:
        ResourceError: lm-eval is not installed.
        UsageError: a model is not a folder or an adapter.
        ToolError: lm-eval failed; its output is quoted.
    """
    if find_spec("lm_eval") is None:
        raise missing_extra("lm_eval", "lm-eval")
    for model in plan.models:
        if not model.has_weights:
            raise UsageError(
                "eval.lm_eval_model",
                tr("`--lm-eval` takes model folders and adapters; {label} is neither",
                   label=model.label),
            )  # fmt: skip
    parts = Parts(plan.out_dir / "parts", log, total=len(plan.models))
    found = {}
    for model in plan.models:

        def measure(model: Model = model) -> Any:
            return _run(plan, model)

        key = [model.digest, list(plan.lm_eval), plan.rows, plan.seed]
        found[model.label] = parts.get(f"{model.label}.lm_eval", key, measure)
    return found


def command(plan: Plan, model: Model, output: Path) -> list[str]:
    """lm-eval's command line for one model."""
    arguments = f"pretrained={model.path},dtype={'float32' if plan.dtype == 'fp32' else 'auto'}"
    if model.adapter:
        arguments += f",peft={model.adapter}"
    line = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments]
    line += ["--tasks", ",".join(plan.lm_eval), "--output_path", str(output)]
    line += ["--batch_size", str(plan.batch), "--seed", str(plan.seed)]
    if plan.lm_eval_tasks:
        line += ["--include_path", str(plan.lm_eval_tasks)]
    if plan.rows is not None:
        line += ["--limit", str(plan.rows)]
    return line


def _run(plan: Plan, model: Model) -> dict[str, dict[str, float]]:
    folder = plan.out_dir / "lm_eval"
    output = folder / f"{model.label}-{sha256_json(list(plan.lm_eval))[:8]}.json"
    before = set(folder.rglob("*.json"))
    log = folder / f"{model.label}.log"
    child = process.start(command(plan, model, output), log=log)
    try:
        code = child.wait()
    finally:
        process.stop(child)
    written = sorted(set(folder.rglob("*.json")) - before, key=lambda path: path.stat().st_mtime)
    if code or not written:
        raise ToolError(
            "tool.failed",
            tr(
                "`{program}` failed ({reason}): {log}",
                program="lm_eval",
                reason=f"exit {code}",
                log=process.log_tail(log) or "(no output)",
            ),
        )
    return read_results(json.loads(written[-1].read_text(encoding="utf-8")))


def read_results(raw: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Task -> metric -> value from lm-eval's result file; `acc,none` becomes `acc`."""
    return {
        task: {
            name.removesuffix(",none"): float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, values in raw["results"].items()
    }
