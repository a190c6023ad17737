"""`slipway train RECIPE [key=value ...]`: fine-tune, with a live line of progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.cli import output
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.training import Resolved


@click.command(
    help=str(
        tr(
            "Fine-tune a model as RECIPE says: a YAML or JSON file, ours or LLaMA Factory's. "
            "KEY=VALUE arguments override its keys, for example `learning_rate=0.001 lora.rank=8`. "
            "After Ctrl-C or a crash the same command goes on from the last checkpoint."
        )
    )
)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help=str(tr("Folder of the run. Default: one in SLIPWAY_HOME/runs, by recipe and values.")),
)
@click.option("--fresh", is_flag=True, help=str(tr("Start anew, dropping what the folder holds.")))
@click.option(
    "--dry-run",
    is_flag=True,
    help=str(tr("Show settings, data, a masked preview, memory and time, and train nothing.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def train(
    recipe: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    fresh: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from slipway.training import load_recipe
    from slipway.training import train as run_training

    resolved = load_recipe(recipe, overrides)
    if dry_run:
        from slipway.cli.dry_screen import show_dry_run

        show_dry_run(resolved, as_json=as_json)
        return
    folder = run_dir or resolved.run_dir or Home.current().runs / resolved.run_name
    for text in resolved.notes:
        output.note(text)
    for line_of_values in values_told(resolved):
        output.note(line_of_values)
    line = output.LiveLine()
    events = EventLog(None, _show(line))
    try:
        result = run_training(
            resolved, run_dir=folder, events=events, resume=not (fresh or resolved.fresh)
        )
    except KeyboardInterrupt:
        line.done(tr("stopped; the same command goes on from here"))
        raise
    if as_json:
        output.print_json(
            {
                "run": str(result.run_dir),
                "name": result.manifest.name,
                "digest": result.manifest.digest,
                "resumed_from": result.resumed_from,
                "metrics": result.metrics,
            }
        )
        return
    line.done()
    if result.resumed_from == result.metrics["steps"]:
        output.note(tr("this run was finished before; `--fresh` trains anew"))
    _print_summary(result.run_dir, result.metrics)


def values_told(resolved: Resolved) -> list[str]:
    """Every value: those decided by somebody with who decided, then those at our defaults."""
    settings = resolved.settings()
    decided = [
        f"{k} = {s.value} ({s.origin})" for k, s in settings.items() if s.origin != "default"
    ]
    rest = [f"{key} = {s.value}" for key, s in settings.items() if s.origin == "default"]
    return [*decided, str(tr("at their defaults: {values}", values=", ".join(rest)))]


def _show(line: output.LiveLine) -> Callable[[dict[str, Any]], None]:
    evals: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "log":
            line.done()
            output.note(event["message"])
        elif event["type"] == "state" and event["state"] == "resumed":
            output.note(tr("going on from step {step}", step=event["step"]))
        elif event["type"] == "metric" and event["kind"] == "eval":
            evals.append(event["loss"])
            line.done()
            output.note(tr("step {step}: eval loss {loss:.4f}", step=event["step"], loss=evals[-1]))
        elif event["type"] == "metric":
            line.show(
                tr(
                    "step {step}/{total}  loss {loss:.4f}  {speed:.0f} tokens/s  "
                    "{eta} left  memory {memory}",
                    step=event["step"],
                    total=event["total_steps"],
                    loss=event["loss"],
                    speed=event["tokens_per_s"],
                    eta=output.duration(event["eta_s"]),
                    memory=output.size(event["memory_bytes"]),
                )
            )

    return listen


def _print_summary(run_dir: Path, metrics: dict[str, Any]) -> None:
    print(
        tr(
            "{steps} steps, {tokens} tokens in {time} ({speed:.0f} tokens/s)",
            steps=metrics["steps"],
            tokens=metrics["tokens"],
            time=output.duration(metrics["seconds"]),
            speed=metrics["tokens_per_s"],
        )
    )
    before, after = metrics["base_eval_loss"], metrics["eval_loss"]
    if before is not None and after is not None:
        print(
            tr(
                "eval loss {before:.4f} -> {after:.4f} ({change:+.1%})",
                before=before,
                after=after,
                change=after / before - 1,
            )
        )
    print(tr("run: {path}", path=str(run_dir)))
    print(tr("next: `slipway merge {path}`", path=str(run_dir)))
