"""`slipway eval RUN` of a reward model: pairs instead of answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from slipway.core.paths import Home

# what is about answers or losses of a language model
_FOREIGN = {
    "choices": "--choices",
    "tasks": "--lm-eval",
    "judge": "--judge",
    "served": "--model",
    "least": "--min",
    "most": "--max",
    "drop": "--max-drop",
    "lf": "--lf",
    "system": "--system",
    "stop": "--stop",
}


def reward_run(options: dict[str, Any], home: Home) -> Path | None:
    """The run of stage rm that is to be measured; None when none is named.

    Raises:
        UsageError: it is named together with other models, or with options that mean nothing here.
    """
    from slipway.training.reward_model import is_reward_run

    names = options["models"]
    found = [
        folder
        for name in names
        if (folder := next((p for p in (Path(name), home.runs / name) if p.is_dir()), None))
        and is_reward_run(folder)
    ]
    if not found:
        return None
    if len(names) > 1:
        raise UsageError(
            "eval.reward_alone",
            tr("{run} is a reward model: it scores pairs and writes no answers", run=str(found[0])),
            tr("measure it alone: `slipway eval {run}`", run=str(found[0])),
        )
    foreign = [option for name, option in _FOREIGN.items() if options[name]]
    if foreign:
        raise UsageError(
            "cli.usage",
            tr(
                "{names} cannot be used with a reward model, which writes no answers",
                names=", ".join(foreign),
            ),
            tr("see what is measured in `docs/stages.md`"),
        )
    return found[0]


def show_pairs(run: Path, options: dict[str, Any], home: Home) -> None:
    """Measure a reward model and print what was found."""
    from slipway.cli.output import print_json, print_table
    from slipway.evaluation.pairs import RESULTS, evaluate_pairs

    folder = options["output"] or home.artefacts / f"eval-{run.name}-pairs"
    results = evaluate_pairs(
        run,
        folder,
        data=options["data"],
        part=options["part"],
        rows=12 if options["quick"] else options["rows"],
        dtype=options["dtype"],
    )
    if options["as_json"]:
        print_json({"folder": str(folder), **results})
        return
    found = results["metrics"]
    accuracy = found["pair_accuracy"]
    rows = [
        (
            "pair_accuracy",
            f"{accuracy['value']:.4g}",
            f"{accuracy['low']:.4g} .. {accuracy['high']:.4g}",
        ),
        *((name, f"{found[name]:.4g}", "-") for name in ("loss", "margin", "ties")),
    ]
    print_table([tr("metric"), tr("value"), tr("95 % interval")], rows)
    print(tr("{pairs} pairs; report: {path}", pairs=results["pairs"], path=str(folder / RESULTS)))
