"""`slipway train RECIPE [key=value ...]`: fine-tune, with a live line of progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.cli import output
from slipway.cli.run_screen import follow, queue_run, train_on_ray, train_run
from slipway.core.errors import UsageError
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
@click.option("--queue", is_flag=True, help=str(tr("Put it at the end of the queue and return.")))
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    help=str(tr("Processes that train together, one for each GPU. Default: 1.")),
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "ray"]),
    default="local",
    help=str(tr("Where the processes run: on this machine, or as a Ray Train job.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def train(
    recipe: Path,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    fresh: bool,
    dry_run: bool,
    queue: bool,
    processes: int,
    launcher: str,
    as_json: bool,
) -> None:
    from slipway.training import load_recipe
    from slipway.training.launch import is_follower, run_processes

    resolved = load_recipe(recipe, overrides)
    if dry_run:
        from slipway.cli.dry_screen import show_dry_run

        show_dry_run(resolved, as_json=as_json)
        return
    folder = run_dir or resolved.run_dir or Home.current().runs / resolved.run_name
    fresh = fresh or resolved.fresh
    if is_follower():
        follow(resolved, folder, fresh=fresh)
        return
    if queue and (processes > 1 or launcher != "local"):
        raise UsageError(
            "train.queue_processes",
            tr("a queued run trains in one process on this machine"),
            tr("leave out `--queue`, or `--processes` and `--launcher`"),
        )
    if launcher == "ray":
        train_on_ray(resolved, folder, processes, fresh=fresh, as_json=as_json)
        return
    if processes > 1:
        sys.exit(run_processes(processes, _arguments()))
    for text in resolved.notes:
        output.note(text)
    for line_of_values in values_told(resolved):
        output.note(line_of_values)
    if queue:
        queue_run(resolved, folder, fresh=fresh, as_json=as_json)
    else:
        train_run(resolved, folder, fresh=fresh, as_json=as_json)


def _arguments() -> list[str]:
    """The command line of each of several processes: this one's, without `--processes`."""
    found: list[str] = []
    given = iter(sys.argv[1:])
    for word in given:
        if word == "--processes":
            next(given, None)
        elif not word.startswith("--processes="):
            found.append(word)
    return found


def values_told(resolved: Resolved) -> list[str]:
    """Every value: those decided by somebody with who decided, then those at our defaults."""
    settings = resolved.settings()
    decided = [
        f"{k} = {s.value} ({s.origin})" for k, s in settings.items() if s.origin != "default"
    ]
    rest = [f"{key} = {s.value}" for key, s in settings.items() if s.origin == "default"]
    return [*decided, str(tr("at their defaults: {values}", values=", ".join(rest)))]
