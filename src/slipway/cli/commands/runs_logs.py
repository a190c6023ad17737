"""`slipway runs logs`: what a run said."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from slipway.cli import output
from slipway.cli.run_text import finding_lines, sample_lines
from slipway.core.i18n import tr
from slipway.core.paths import Home


@click.command(help=str(tr("Print what a run said; -f goes on until it ends.")))
@click.argument("name", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help=str(tr("Follow a run that is running.")))
@click.option("-n", "--lines", type=click.IntRange(0), help=str(tr("Only the last so many.")))
@click.option("--json", "as_json", is_flag=True, help=str(tr("One JSON event in each line.")))
def logs(name: str, follow: bool, lines: int | None, as_json: bool) -> None:
    from slipway.jobs import Runs, events_after
    from slipway.jobs.run_folder import trainer_of

    with Runs(Home.current()) as runs:
        run = runs.find(name)
    said, end = events_after(run.folder, 0)
    for event in said if lines is None else said[len(said) - min(lines, len(said)) :]:
        _print(event, as_json)
    while follow:
        alive = trainer_of(run.folder) is not None or _waits(run.id)
        said, end = events_after(run.folder, end)
        for event in said:
            _print(event, as_json)
        if not alive:
            return
        time.sleep(0.3)


def _waits(run_id: str) -> bool:
    from slipway.jobs import Queue, Runs

    with Runs(Home.current()) as runs:
        return any(item.run_id == run_id for item in Queue(runs).items(ended=False))


def _print(event: dict[str, Any], as_json: bool) -> None:
    line = json.dumps(event, ensure_ascii=False) if as_json else line_of(event)
    print(line, flush=True)


def line_of(event: dict[str, Any]) -> str:
    """One line for people: local time, then what happened."""
    at = event.get("at")
    moment = time.strftime("%m-%d %H:%M:%S", time.localtime(at)) if at else " " * 14
    return f"{moment}  {_words(event)}"


def _words(event: dict[str, Any]) -> str:
    kind = event.get("type")
    if kind == "metric" and event.get("kind") == "eval":
        return str(tr("step {step}: eval loss {loss:.4f}", step=event["step"], loss=event["loss"]))
    if kind == "metric" and {"step", "loss", "lr"} <= event.keys():
        line = f"{event['step']}/{event.get('total_steps', '?')}  loss {event['loss']:.4f}"
        line += f"  lr {event['lr']:.2e}"
        for name, form in (("grad_norm", ".3g"), ("tokens_per_s", ".0f")):
            if name in event:
                line += f"  {name} {event[name]:{form}}"
        if "memory_bytes" in event:
            line += f"  {output.size(event['memory_bytes'])}"
        return line
    if kind == "log":
        return str(event.get("message", ""))
    if kind == "state":
        return f"[{event.get('state')}] {event.get('message', '')}".rstrip()
    if kind == "sample":
        return "".join(sample_lines(event))
    if kind == "diagnosis":
        return "! " + finding_lines([event])[0]
    rest = {k: v for k, v in event.items() if k not in ("type", "at")}
    return f"[{kind}] {json.dumps(rest, ensure_ascii=False)}"
