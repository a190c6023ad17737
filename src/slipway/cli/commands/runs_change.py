"""`slipway runs stop|resume|rm|tag|note`."""

from __future__ import annotations

import sys

import click

from slipway.cli import output
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home


@click.command(
    help=str(
        tr(
            "Stop runs: each saves a checkpoint and can be resumed. With --keep each ends "
            "properly with what it has, as a usable artefact. A waiting run leaves the queue."
        )
    )
)
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("--keep", is_flag=True, help=str(tr("Finish now, and keep the result.")))
@click.option(
    "--wait",
    "timeout_s",
    default=120.0,
    show_default=True,
    help=str(tr("Seconds to wait until it has stopped.")),
)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def stop(names: tuple[str, ...], keep: bool, timeout_s: float, as_json: bool) -> None:
    from slipway.jobs import Runs, ask_to_stop

    with Runs(Home.current()) as runs:
        found = [runs.find(name) for name in names]
        for run in found:
            run.require("keep" if keep else "stop")
        ended = {run.name: ask_to_stop(runs, run, keep=keep, timeout_s=timeout_s) for run in found}
        states = {run.name: _state_now(runs, run.id) for run in found}
    if as_json:
        output.print_json(
            {"runs": [{"name": n, "stopped": ended[n], "state": states[n]} for n in ended]}
        )
        return
    for name, done in ended.items():
        if not done:
            output.note(tr("{name} was asked, and stops after the step in hand", name=name))
        elif keep:
            print(tr("{name} is finished with what it had", name=name))
        else:
            print(tr("{name} has stopped; `slipway runs resume {name}` goes on", name=name))


def _state_now(runs: object, run_id: str) -> str:
    from slipway.jobs import Runs

    assert isinstance(runs, Runs)
    return next((run.state for run in runs.all() if run.id == run_id), "missing")


@click.command(
    help=str(
        tr(
            "Go on with a run from its last checkpoint, with the values it was started with. "
            "KEY=VALUE may change those that do not change the result, such as pack_tokens."
        )
    )
)
@click.argument("name", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--queue", is_flag=True, help=str(tr("Put it at the end of the queue and return.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def resume(name: str, overrides: tuple[str, ...], queue: bool, as_json: bool) -> None:
    from slipway.cli.run_screen import queue_run, train_run
    from slipway.jobs import Runs
    from slipway.training.folder import read_settings
    from slipway.training.run_state import NEUTRAL
    from slipway.training.spec.load import with_overrides

    with Runs(Home.current()) as runs:
        run = runs.find(name)
        run.require("resume")
    for item in overrides:
        if (key := item.partition("=")[0]) not in NEUTRAL:
            raise UsageError(
                "runs.other_result",
                tr("`{key}` would change the result, so it cannot be changed in between", key=key),
                tr(
                    "train anew with it; these may be changed: {names}",
                    names=", ".join(sorted(NEUTRAL)),
                ),
            )
    resolved = with_overrides(read_settings(run.folder), overrides)
    start = queue_run if queue else train_run
    start(resolved, run.folder, fresh=False, as_json=as_json)


@click.command(
    "rm",
    help=str(
        tr(
            "Remove runs with their folders. A run from which something was made is kept, "
            "unless --force is given."
        )
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("-y", "--yes", is_flag=True, help=str(tr("Do not ask.")))
@click.option("--force", is_flag=True, help=str(tr("Even if something was made from it.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def remove(names: tuple[str, ...], yes: bool, force: bool, as_json: bool) -> None:
    from slipway.jobs import Runs
    from slipway.jobs.run_folder import size_of

    with Runs(Home.current()) as runs:
        found = [runs.find(name) for name in names]
        for run in found:
            runs.require_removable(run, force=force)
        if not (yes or as_json):
            for run in found:
                size = output.size(size_of(run.folder)) if run.folder.is_dir() else "0 B"
                output.note(f"{run.name}  {run.folder}  {size}")
            _confirm(len(found))
        for run in found:
            runs.remove(run, force=force)
    if as_json:
        output.print_json({"removed": [run.name for run in found]})
    else:
        print(tr("removed: {names}", names=", ".join(run.name for run in found)))


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            "runs.confirm",
            tr("removing needs a yes, and there is no terminal to ask"),
            tr("add `--yes`"),
        )
    click.confirm(str(tr("remove these {count} runs with their folders?", count=count)), abort=True)


@click.command(help=str(tr("Put words on a run, to find it by.")))
@click.argument("name", metavar="RUN")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("-r", "--remove", "gone", multiple=True, help=str(tr("Take this word away.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def tag(name: str, words: tuple[str, ...], gone: tuple[str, ...], as_json: bool) -> None:
    from slipway.jobs import Runs

    with Runs(Home.current()) as runs:
        run = runs.find(name)
        if words or gone:
            runs.tag(run, words, gone)
            run = runs.find(run.id)
    if as_json:
        output.print_json({"name": run.name, "tags": list(run.tags)})
    else:
        print(f"{run.name}: {' '.join(run.tags)}")


@click.command(help=str(tr("Write a note on a run; without TEXT show it, with '' remove it.")))
@click.argument("name", metavar="RUN")
@click.argument("text", required=False)
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def note(name: str, text: str | None, as_json: bool) -> None:
    from slipway.jobs import Runs

    with Runs(Home.current()) as runs:
        run = runs.find(name)
        if text is not None:
            runs.note(run, text)
            run = runs.find(run.id)
    if as_json:
        output.print_json({"name": run.name, "note": run.note})
    else:
        print(run.note or tr("{name} has no note", name=run.name))
