"""A training run on the terminal: `train`, `runs resume` and the queue do it the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.cli import output
from slipway.cli.fetch_line import fetch_text
from slipway.cli.run_text import finding_lines, sample_lines
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.training import Resolved


def train_run(resolved: Resolved, folder: Path, *, fresh: bool, as_json: bool) -> None:
    """Train in the foreground, enter the run in the index, and print what came of it."""
    from slipway.jobs import registering
    from slipway.training import train

    line = output.LiveLine()
    entry = registering(Home.current(), folder, resolved.spec.tags, output.note)
    events = EventLog(None, entry, show_events(line))
    try:
        result = train(resolved, run_dir=folder, events=events, resume=not fresh)
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
    print_summary(result.run_dir, result.metrics)


def follow(resolved: Resolved, folder: Path, *, fresh: bool) -> None:
    """Train as one of several processes: another one, the chief, tells of the run."""
    from slipway.training import train

    train(resolved, run_dir=folder, events=EventLog(None), resume=not fresh)


def train_on_ray(
    resolved: Resolved, folder: Path, processes: int, *, fresh: bool, as_json: bool
) -> None:
    """Train as a Ray Train job, and print what came of it."""
    from slipway.core.manifest import read_manifest
    from slipway.jobs import registering
    from slipway.training.folder import settings_json
    from slipway.training.launch import ray_worker, run_on_ray

    entry = registering(Home.current(), folder, resolved.spec.tags, output.note)
    entry({"type": "state", "state": "started", "step": 0})
    config = {
        "settings": settings_json(resolved),
        "run_dir": str(folder.absolute()),
        "fresh": fresh,
        "home": str(Home.current().root),
        "ray_dir": str(Home.current().root / "ray"),
    }
    run_on_ray(ray_worker, config, processes)
    manifest = read_manifest(folder, kind="run")
    if as_json:
        output.print_json(
            {"run": str(folder), "digest": manifest.digest, "metrics": manifest.metrics}
        )
        return
    print_summary(folder, manifest.metrics)


def queue_run(resolved: Resolved, folder: Path, *, fresh: bool, as_json: bool) -> None:
    """Put a run into the queue, with its values as they are now, and wake the worker."""
    from slipway.jobs import Queue, Runs
    from slipway.training.folder import settings_json

    with Runs(Home.current()) as runs:
        queue = Queue(runs)
        item = queue.add(folder, settings_json(resolved), fresh=fresh, tags=resolved.spec.tags)
        place = len([i for i in queue.items(ended=False) if i.state == "waiting"])
        queue.start_worker()
    if as_json:
        output.print_json({"run": str(folder.absolute()), "id": item.run_id, "place": place})
        return
    output.note(tr("queued {name} at place {place}", name=item.name, place=place))
    print(tr("next: `slipway runs queue ls`"))


def show_events(line: output.LiveLine) -> Callable[[dict[str, Any]], None]:
    """A listener that shows a run's events on a live line."""

    def listen(event: dict[str, Any]) -> None:
        if event["type"] == "log":
            line.done()
            output.note(event["message"])
        elif event["type"] == "diagnosis" and event["severity"] == "warning":
            line.done()
            output.note(f"{tr('warning')}: {finding_lines([event])[0]}")
        elif event["type"] == "progress" and event["stage"] == "fetch":
            line.show(fetch_text(event["name"], event["done_bytes"], event["total_bytes"]))
        elif event["type"] == "sample":
            line.done()
            output.note("\n".join(sample_lines(event)))
        elif event["type"] == "state" and event["state"] == "resumed":
            output.note(tr("going on from step {step}", step=event["step"]))
        elif event["type"] == "metric" and event["kind"] == "eval":
            line.done()
            output.note(
                tr("step {step}: eval loss {loss:.4f}", step=event["step"], loss=event["loss"])
            )
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


def print_summary(run_dir: Path, metrics: dict[str, Any]) -> None:
    """What came of a run, and the command that goes on from it."""
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
