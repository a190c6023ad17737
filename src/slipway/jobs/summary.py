"""What the events of a run come to: folded one by one, so that a growing file is read once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from slipway.core.events import events_from

EVENTS = "events.jsonl"
_MAX_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The newest numbers of a run.

    Attributes:
        state: of the last `state` event: started, resumed, interrupted, stopped, failed, finished.
        error: code, message and hint of the failure, when the last state is `failed`.
        loss, grad_norm, lr, tokens_per_s, memory_bytes, eta_s: of the newest step.
        base_eval_loss, eval_loss, best_eval_loss: nats per label token.
        findings: what the diagnosis said, the newest of each code.
        started_at, updated_at: unix seconds of the first and the newest event.
    """

    state: str = ""
    error: dict[str, Any] | None = None
    step: int = 0
    total_steps: int | None = None
    epoch: int | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    eta_s: float | None = None
    base_eval_loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    best_step: int | None = None
    samples: int = 0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    started_at: float | None = None
    updated_at: float | None = None


def fold(summary: RunSummary, event: dict[str, Any]) -> RunSummary:
    """The summary after one more event; events it does not know change only the time."""
    at = event.get("at")
    if isinstance(at, int | float):
        started = summary.started_at if summary.started_at is not None else float(at)
        summary = replace(summary, started_at=started, updated_at=float(at))
    kind = event.get("type")
    if kind == "metric":
        return _eval(summary, event) if event.get("kind") == "eval" else _step(summary, event)
    if kind == "state" and "state" in event:
        return _state(summary, event)
    if kind == "log" and isinstance(event.get("total_steps"), int):
        return replace(summary, total_steps=event["total_steps"])
    if kind == "sample":
        return replace(summary, samples=summary.samples + 1)
    if kind == "diagnosis" and len(summary.findings) < _MAX_FINDINGS:
        return replace(summary, findings={**summary.findings, str(event.get("code")): event})
    return summary


def _state(summary: RunSummary, event: dict[str, Any]) -> RunSummary:
    failed = event["state"] == "failed"
    error = {key: event.get(key, "") for key in ("code", "message", "hint")} if failed else None
    return replace(summary, state=str(event["state"]), error=error)


def _eval(summary: RunSummary, event: dict[str, Any]) -> RunSummary:
    loss, step = event.get("loss"), event.get("step")
    if not isinstance(loss, int | float) or not isinstance(step, int):
        return summary
    if step == 0:
        summary = replace(summary, base_eval_loss=loss)
    best = summary.best_eval_loss
    if best is None or loss < best:
        summary = replace(summary, best_eval_loss=loss, best_step=step)
    return replace(summary, eval_loss=loss)


_NUMBERS = (
    "step",
    "total_steps",
    "epoch",
    "loss",
    "lr",
    "grad_norm",
    "tokens",
    "tokens_per_s",
    "memory_bytes",
    "eta_s",
)


def _step(summary: RunSummary, event: dict[str, Any]) -> RunSummary:
    known = {name: event[name] for name in _NUMBERS if isinstance(event.get(name), int | float)}
    return replace(summary, **known)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file of events has been read: its inode, and bytes of whole lines."""

    inode: int = 0
    offset: int = 0


def read_on(path: Path, summary: RunSummary, at: Position) -> tuple[RunSummary, Position]:
    """Fold what was appended since; a file that was replaced or became shorter is read anew.

    A last line without its end is left for the next time. A missing file is an empty one.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != at.inode or status.st_size < at.offset:
                summary, at = RunSummary(), Position(status.st_ino, 0)
            offset = at.offset
            for event, end in events_from(file, at.offset):
                offset = end
                if event is not None:
                    summary = fold(summary, event)
            return summary, Position(at.inode, offset)
    except FileNotFoundError:
        return RunSummary(), Position()


def dumps(summary: RunSummary) -> str:
    """The summary as JSON, for the index."""
    return json.dumps(asdict(summary), ensure_ascii=False, separators=(",", ":"))


def loads(text: str) -> RunSummary | None:
    """The inverse of `dumps`; None when it was written by another version."""
    try:
        return RunSummary(**json.loads(text))
    except (ValueError, TypeError):
        return None
