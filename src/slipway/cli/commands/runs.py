"""`slipway runs`: every training run, whoever started it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, get_args

import click

from slipway.cli import output
from slipway.cli.commands.runs_change import note, remove, resume, stop, tag
from slipway.cli.commands.runs_compare import compare_runs
from slipway.cli.commands.runs_logs import logs
from slipway.cli.commands.runs_queue import queue
from slipway.cli.run_text import ago, finding_lines, findings_of, number, sample_lines, state_text
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.jobs.states import RunState

if TYPE_CHECKING:
    from slipway.jobs import Run


@click.group(help=str(tr("Training runs: list, show, compare, stop, resume, queue.")))
def runs() -> None:
    pass


for command in (compare_runs, logs, note, queue, remove, resume, stop, tag):
    runs.add_command(command)


@runs.command(help=str(tr("List the runs, newest first.")))
@click.argument("text", default="")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(get_args(RunState)),
    help=str(tr("Only runs in this state (may be given several times).")),
)
@click.option("--tag", "tags", multiple=True, help=str(tr("Only runs with this tag.")))
@click.option("-n", "--limit", type=click.IntRange(1), help=str(tr("At most so many.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def ls(
    text: str, states: tuple[RunState, ...], tags: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as index:
        found = [run for run in index.all(states=states, tags=tags) if _has(run, text)][:limit]
        waiting = [r for r in index.all(states=["queued"])]
        asleep = bool(waiting) and Queue(index).worker() is None
        problems = index.problems
    if as_json:
        output.print_json({"runs": [brief(run) for run in found]})
        return
    for problem in problems:
        output.note(problem)
    if not found:
        output.note(
            tr("no run yet: `slipway train RECIPE`")
            if not (text or states or tags)
            else tr("no run is like that")
        )
        return
    output.print_table(
        [
            tr("ID"),
            tr("NAME"),
            tr("STATE"),
            tr("STEP"),
            tr("LOSS"),
            tr("EVAL"),
            tr("SPEED"),
            tr("LEFT"),
            tr("STARTED"),
            tr("TAGS"),
        ],
        [_row(run) for run in found],
    )
    if asleep:
        output.note(tr("the queue waits for its worker: `slipway runs queue start`"))


def _has(run: Run, text: str) -> bool:
    return text.lower() in " ".join((run.id, run.name, run.note, *run.tags)).lower()


def _row(run: Run) -> list[str]:
    it = run.summary
    alive = run.state == "running"
    steps = f"{it.step}/{it.total_steps}" if it.total_steps else str(it.step or "")
    state = str(state_text(run.state))
    if run.place:
        state += f" #{run.place}"
    if it.findings and run.state != "finished":
        state += " !"
    return [
        run.id,
        run.name,
        state,
        steps,
        number(it.loss),
        number(it.eval_loss),
        f"{it.tokens_per_s:.0f}" if alive and it.tokens_per_s else "",
        output.duration(it.eta_s) if alive and it.eta_s is not None else "",
        ago(it.started_at, time.time()),
        " ".join(run.tags),
    ]


def brief(run: Run) -> dict[str, Any]:
    """A run as JSON."""
    from dataclasses import asdict

    return {
        "id": run.id,
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "tags": list(run.tags),
        "note": run.note,
        "place": run.place,
        "pid": run.pid,
        "summary": asdict(run.summary),
    }


@runs.command(help=str(tr("Show a run: settings with their origins, metrics, lineage, samples.")))
@click.argument("name", metavar="RUN")
@click.option("--all", "everything", is_flag=True, help=str(tr("Show default settings too.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print one JSON document.")))
def show(name: str, everything: bool, as_json: bool) -> None:
    from slipway.jobs import Runs, details

    with Runs(Home.current()) as index:
        run = index.find(name)
        found = details(index, run)
        problems = index.problems
    if as_json:
        output.print_json({**brief(run), **found.as_json(), "findings": findings_of(run)})
        return
    for problem in problems:
        output.note(problem)
    print(f"{run.name}  {run.id}  {state_text(run.state)}")
    _print_facts(run, found)
    _print_settings(found, everything)


def _print_facts(run: Run, found: Any) -> None:
    it = run.summary
    steps = f"{it.step}/{it.total_steps}" if it.total_steps else it.step
    facts: list[tuple[Any, Any]] = [
        (tr("folder"), f"{run.folder} ({output.size(found.size)})"),
        (tr("note"), run.note),
        (tr("tags"), " ".join(run.tags)),
        (tr("steps"), steps),
        (tr("loss"), number(it.loss)),
        (tr("eval loss"), _eval_line(run)),
        (tr("tokens per second"), number(it.tokens_per_s)),
        (
            tr("time left"),
            output.duration(it.eta_s) if run.state == "running" and it.eta_s is not None else "",
        ),
        (tr("memory"), output.size(it.memory_bytes) if it.memory_bytes else ""),
        (tr("base"), found.lineage.get("base", "")),
        (tr("dataset"), found.lineage.get("dataset", "")),
        (tr("digest"), found.digest),
        (tr("curves"), found.curve or ""),
        (
            tr("checkpoints"),
            ", ".join(f"{c.step} ({output.size(c.size)})" for c in found.checkpoints),
        ),
        (tr("made from it"), ", ".join(f"{h.kind} {h.path}" for h in found.heirs)),
    ]
    for title, value in facts:
        if str(value):
            print(f"  {title}: {value}")
    if it.error and run.state == "failed":
        print(f"  {tr('error')}: {it.error['message']} ({it.error['code']})")
        if it.error["hint"]:
            print(f"  {tr('hint')}: {it.error['hint']}")
    for line in finding_lines(findings_of(run)):
        print(f"  ! {line}")
    for sample in found.samples:
        print(f"  {tr('sample at step {step}', step=sample.get('step'))}")
        for line in sample_lines(sample):
            print(f"    {line}")


def _eval_line(run: Run) -> str:
    it = run.summary
    if it.eval_loss is None:
        return ""
    line = number(it.eval_loss)
    if it.base_eval_loss:
        line = (
            f"{number(it.base_eval_loss)} -> {line} ({it.eval_loss / it.base_eval_loss - 1:+.1%})"
        )
    if it.best_eval_loss is not None and it.best_eval_loss < it.eval_loss:
        line += ", " + str(
            tr("best {loss} at step {step}", loss=number(it.best_eval_loss), step=it.best_step)
        )
    return line


def _print_settings(found: Any, everything: bool) -> None:
    shown = {k: s for k, s in found.settings.items() if everything or s.origin != "default"}
    if not found.settings:
        return
    print(f"  {tr('settings')}:")
    for key, setting in shown.items():
        print(f"    {key} = {setting.value}  ({setting.origin})")
    hidden = len(found.settings) - len(shown)
    if hidden:
        print("    " + str(tr("{count} at their defaults: `--all` shows them", count=hidden)))
