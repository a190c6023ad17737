"""`slipway ps`, `stop`, `cp`: the models in the daemon's memory, and their names."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from slipway.cli.connect import connect, url_option
from slipway.core.i18n import Text, tr

_FOREVER_S = 10 * 365 * 86400


@click.command(help=str(tr("Show the models that the daemon has in memory.")))
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def ps(url: str | None, as_json: bool) -> None:
    from slipway.cli.output import note, print_json, print_table, size

    with connect(url) as daemon:
        models = daemon.loaded()
    if as_json:
        print_json(models)
        return
    rows = [
        (
            m["name"],
            m["digest"][:12],
            size(m["size"]),
            processor(m["size"], m.get("size_vram", 0)),
            m.get("context_length", 0),
            until(m["expires_at"]),
        )
        for m in models
    ]
    print_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)
    if not rows:
        note(tr("no model is loaded; `slipway run NAME` loads one"))


@click.command(help=str(tr("Unload models: free their memory as soon as they are idle.")))
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help=str(tr("Every model that is loaded.")))
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def stop(names: tuple[str, ...], everything: bool, url: str | None, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.errors import UsageError

    if bool(names) == everything:
        raise UsageError(
            "stop.which",
            tr("which model? give names, or `--all`"),
            tr("see what is loaded with `slipway ps`"),
        )
    with connect(url) as daemon:
        loaded = {_folded(m["name"]): str(m["name"]) for m in daemon.loaded()}
        results = []
        for name in names or tuple(loaded.values()):
            daemon.unload(name)
            shown, was_loaded = loaded.get(_folded(name), name), _folded(name) in loaded
            results.append({"name": shown, "was_loaded": was_loaded})
            if not as_json:  # at once: a later name may be wrong
                print(
                    tr("{name} is unloaded as soon as it is idle", name=shown)
                    if was_loaded
                    else tr("{name} was not loaded", name=shown),
                    flush=True,
                )
    if as_json:
        print_json(results)


@click.command(help=str(tr("Give a model a second name; nothing is copied on disk.")))
@click.argument("source")
@click.argument("destination")
@click.option("--force", is_flag=True, help=str(tr("Replace a model that has that name.")))
@url_option
@click.option("--json", "as_json", is_flag=True, help=str(tr("Print the result as JSON.")))
def copy(source: str, destination: str, force: bool, url: str | None, as_json: bool) -> None:
    from slipway.cli.output import print_json
    from slipway.core.errors import ConflictError

    with connect(url, may_start=True) as daemon:
        taken = {_folded(m["name"]): m["digest"] for m in daemon.models()}
        old = taken.get(_folded(destination))
        if old is not None and old != taken.get(_folded(source)) and not force:
            raise ConflictError(
                "model.exists",
                tr("there is another model with the name `{name}`", name=destination),
                tr("give another name, or replace it with `--force`"),
            )
        daemon.copy(source, destination)
    if as_json:
        print_json({"source": source, "destination": destination, "replaced": old is not None})
    else:
        print(tr("copied {source} to {destination}", source=source, destination=destination))


def processor(total: int, on_gpu: int) -> str:
    """Where a model's memory is, as Ollama words it: `100% CPU`, `40%/60% CPU/GPU`."""
    if on_gpu <= 0 or total <= 0:
        return "100% CPU"
    if on_gpu >= total:
        return "100% GPU"
    on_cpu = round((total - on_gpu) * 100 / total)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def until(expires_at: str) -> Text:
    """When a model goes, for people."""
    seconds = seconds_left(expires_at)
    if seconds > _FOREVER_S:
        return tr("for ever")
    if seconds <= 0:
        return tr("stopping")
    if seconds < 90:
        return tr("{count} s from now", count=round(seconds))
    if seconds < 90 * 60:
        return tr("{count} min from now", count=round(seconds / 60))
    return tr("{count} h from now", count=round(seconds / 3600))


def seconds_left(expires_at: str) -> float:
    """Seconds until an RFC 3339 time; Go writes nine digits of a second, and offsets."""
    text = expires_at.replace("Z", "+00:00")
    head, dot, rest = text.partition(".")
    if dot:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        text = f"{head}.{digits[:6]:0<6}{rest[len(digits) :]}"
    moment = datetime.fromisoformat(text)
    return (moment - datetime.now(UTC)).total_seconds()


def _folded(name: str) -> Any:
    from slipway.store import ModelName

    base, *others = name.split("+")
    return (ModelName.parse(base).folded, *others)
