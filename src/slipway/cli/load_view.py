"""What the daemon is doing, from two looks at its metrics; drawn as a table."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from slipway.core.errors import NotFoundError
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    from rich.table import Table

    from slipway.client import DaemonClient

_PIECES = (
    "slipway_inter_token_latency_seconds_count",
    "slipway_time_to_first_token_seconds_count",
)


@dataclass(frozen=True, slots=True)
class Look:
    """The daemon at one moment.

    Attributes:
        at: seconds on a clock that only goes forward.
        models: the rows of /api/ps.
        queue: the rows of /api/queue; empty from a server that has none.
        values: metric name -> model -> sum over its other labels.
    """

    at: float
    models: list[dict[str, Any]]
    queue: list[dict[str, Any]]
    values: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """A row: what one model is doing.

    Attributes:
        tokens_per_s: tokens made between two looks, for all its requests together.
        prompt_tokens_per_s: tokens of the prompts that ended between the looks.
        oldest_wait_s: how long the first in the queue has waited.
    """

    name: str
    active: int
    slots: int
    waiting: int
    oldest_wait_s: float
    tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    errors: int
    memory_bytes: int
    context_length: int
    expires_at: str


@dataclass(frozen=True, slots=True)
class DaemonLoad:
    """Every model, and the sums."""

    url: str
    models: list[ModelLoad] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rows = self.models
        return {
            "url": self.url,
            "tokens_per_s": sum(row.tokens_per_s for row in rows),
            "active": sum(row.active for row in rows),
            "waiting": sum(row.waiting for row in rows),
            "memory_bytes": sum(row.memory_bytes for row in rows),
            "models": [asdict(row) for row in rows],
        }


def look(daemon: DaemonClient) -> Look:
    """Ask the daemon. A server without queue and metrics (Ollama) shows its models only."""
    models = daemon.loaded()
    try:
        queue, text = daemon.queue(), daemon.metrics()
    except NotFoundError:
        queue, text = [], ""
    return Look(time.monotonic(), models, queue, _values(text))


def _values(text: str) -> dict[str, dict[str, float]]:
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name
            if kind := sample.labels.get("type"):
                name += f"/{kind}"
            found[name][sample.labels.get("model", "")] += sample.value
    return found


def between(url: str, before: Look, now: Look) -> DaemonLoad:
    """The load in the time between two looks."""
    span = max(now.at - before.at, 1e-6)

    def rate(name: str, model: str) -> float:
        new = now.values.get(name, {}).get(model, 0.0)
        # a daemon that was started again counts from 0
        return max(0.0, new - before.values.get(name, {}).get(model, 0.0)) / span

    queue = {str(row["model"]): row for row in now.queue}
    resident = {str(row["name"]): row for row in now.models}
    rows = []
    for name in sorted({*queue, *resident}):
        waits, row = queue.get(name, {}), resident.get(name, {})
        waiting = waits.get("waiting") or []
        rows.append(
            ModelLoad(
                name=name,
                active=int(waits.get("active", 0)),
                slots=int(waits.get("slots", 0)),
                waiting=len(waiting),
                oldest_wait_s=max((w["waited_ms"] / 1e3 for w in waiting), default=0.0),
                tokens_per_s=sum(rate(piece, name) for piece in _PIECES),
                prompt_tokens_per_s=rate("slipway_tokens_total/prompt", name),
                requests_per_s=rate("slipway_requests_total", name),
                errors=int(now.values.get("slipway_errors_total", {}).get(name, 0)),
                memory_bytes=int(row.get("size", 0)),
                context_length=int(row.get("context_length", 0)),
                expires_at=str(row.get("expires_at", "")),
            )
        )
    return DaemonLoad(url, rows)


COLUMNS: tuple[str, ...] = (
    *("MODEL", "SLOTS", "QUEUE", "WAIT", "TOKENS/S", "PROMPT/S", "REQ/S", "ERRORS"),
    *("MEMORY", "CONTEXT", "UNTIL"),
)


def cells(row: ModelLoad) -> tuple[str, ...]:
    """A row for people, in the order of `COLUMNS`."""
    from slipway.cli.commands.loaded import until
    from slipway.cli.output import size

    return (
        row.name,
        f"{row.active}/{row.slots}",
        str(row.waiting),
        f"{row.oldest_wait_s:.1f} s" if row.waiting else "-",
        f"{row.tokens_per_s:.1f}",
        f"{row.prompt_tokens_per_s:.1f}",
        f"{row.requests_per_s:.1f}",
        str(row.errors),
        size(row.memory_bytes),
        str(row.context_length),
        str(until(row.expires_at)) if row.expires_at else "-",
    )


def summary(load: DaemonLoad) -> Text:
    """One line over the table."""
    from slipway.cli.output import size

    sums = load.as_json()
    return tr(
        "{url}: {active} answers in progress, {waiting} waiting, {speed} tokens/s, {memory}",
        url=load.url,
        active=sums["active"],
        waiting=sums["waiting"],
        speed=f"{sums['tokens_per_s']:.1f}",
        memory=size(sums["memory_bytes"]),
    )


def table(load: DaemonLoad, note: str = "") -> Table:
    """The live screen."""
    from rich import box
    from rich.table import Table

    drawn = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=str(summary(load)),
        title_justify="left",
        caption=note or str(tr("Ctrl-C leaves")),
        caption_justify="left",
    )
    for column in COLUMNS:
        drawn.add_column(column, justify="left" if column in ("MODEL", "UNTIL") else "right")
    for row in load.models:
        drawn.add_row(*cells(row))
    return drawn
