"""`slipway runs queue`: runs that wait for their turn, one at a time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from slipway.cli import output
from slipway.cli.run_text import ago
from slipway.core.errors import NotFoundError
from slipway.core.i18n import Text, tr
from slipway.core.paths import Home


@click.group(help=str(tr("Runs that wait for their turn, one at a time.")))
def queue() -> None:
    pass


@queue.command(help=str(tr("Queue a recipe, as `slipway train RECIPE --queue` does.")))
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run-dir", type=click.Path(path_type=Path), help=str(tr("Folder of the run.")))
@click.option("--fresh", is_flag=True, help=str(tr("Start anew, dropping what the folder holds.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def add(
    recipe: Path, overrides: tuple[str, ...], run_dir: Path | None, fresh: bool, as_json: bool
) -> None:
    from slipway.cli.run_screen import queue_run
    from slipway.training import load_recipe

    resolved = load_recipe(recipe, overrides)
    folder = run_dir or resolved.run_dir or Home.current().runs / resolved.run_name
    queue_run(resolved, folder, fresh=fresh or resolved.fresh, as_json=as_json)


@queue.command(help=str(tr("Show what runs, what waits, and how those before ended.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def ls(as_json: bool) -> None:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        items = Queue(runs).items()
        worker = Queue(runs).worker()
        problems = runs.problems
    if as_json:
        output.print_json(
            {
                "worker": worker,
                "items": [
                    {
                        "id": item.run_id,
                        "name": item.name,
                        "folder": str(item.folder),
                        "state": item.state,
                        "attempts": item.attempts,
                        "error": item.error,
                        "added_at": item.added_at,
                        "started_at": item.started_at,
                        "ended_at": item.ended_at,
                    }
                    for item in items
                ],
            }
        )
        return
    for problem in problems:
        output.note(problem)
    if not items:
        output.note(tr("the queue is empty: `slipway train RECIPE --queue`"))
        return
    now = time.time()
    output.print_table(
        [tr("ID"), tr("NAME"), tr("STATE"), tr("QUEUED"), tr("ENDED"), tr("ERROR")],
        [
            (
                i.run_id,
                i.name,
                item_text(i.state),
                ago(i.added_at, now),
                ago(i.ended_at, now),
                i.error,
            )
            for i in items
        ],
    )
    if worker is None and any(item.state in ("waiting", "running") for item in items):
        output.note(tr("the queue waits for its worker: `slipway runs queue start`"))


def item_text(state: str) -> Text:
    """A state of the queue in the reader's language."""
    return {
        "waiting": tr("waiting"),
        "running": tr("running"),
        "done": tr("done"),
        "failed": tr("failed"),
    }.get(state, tr("stopped"))


@queue.command(help=str(tr("Move a waiting run to PLACE (1 is next).")))
@click.argument("name", metavar="RUN")
@click.argument("place", type=click.IntRange(1))
def move(name: str, place: int) -> None:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        Queue(runs).move(runs.find(name), place)
        waiting = [i.name for i in Queue(runs).items(ended=False) if i.state == "waiting"]
    print(tr("waiting: {names}", names=", ".join(waiting)))


@queue.command("rm", help=str(tr("Take a waiting run out of the queue; its folder stays.")))
@click.argument("name", metavar="RUN")
def take_out(name: str) -> None:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        run = runs.find(name)
        Queue(runs).take_out(run)
    print(tr("taken out of the queue: {name}", name=run.name))


@queue.command(help=str(tr("Start the worker, for example after the machine was restarted.")))
def start() -> None:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        started = Queue(runs).start_worker()
        pid = Queue(runs).worker()
    if started and pid is not None:
        print(tr("the queue's worker runs (process {pid})", pid=pid))
    elif started:
        print(tr("nothing waits"))
    else:
        print(tr("the queue's worker runs already (process {pid})", pid=pid))


@queue.command("stop", help=str(tr("Stop the worker; the run in hand goes on, the others wait.")))
def stop_worker() -> None:
    import os
    import signal
    from contextlib import suppress

    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        pid = Queue(runs).worker()
        if pid is None:
            output.note(tr("no worker runs"))
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while Queue(runs).worker() == pid and time.monotonic() < deadline:
            time.sleep(0.05)
    print(tr("the worker has stopped; `slipway runs queue start` goes on"))


@queue.command(hidden=True)
def work() -> None:
    from slipway.jobs.queue_worker import work as work_on

    def say(message: str) -> None:
        print(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), message, flush=True)

    if not work_on(Home.current(), say=say):
        say("another worker is at it")


@queue.command("train", hidden=True)
@click.argument("number", type=int)
def train_item(number: int) -> None:
    from slipway.cli.run_screen import train_run
    from slipway.jobs import Queue, Runs
    from slipway.training.folder import resolved_from

    with Runs(Home.current()) as runs:
        found = [item for item in Queue(runs).items() if item.id == number]
    if not found:
        raise NotFoundError("queue.not_found", tr("the queue has no entry {number}", number=number))
    item = found[0]
    fresh = item.fresh and item.attempts <= 1
    print(f"{item.name}: attempt {item.attempts}", file=sys.stderr, flush=True)
    train_run(resolved_from(item.settings), item.folder, fresh=fresh, as_json=False)
