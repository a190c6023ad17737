"""How runs are put into words: states, numbers, times, findings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from slipway.core.i18n import Text, tr
from slipway.jobs.states import RunState

if TYPE_CHECKING:
    from slipway.jobs import Run

_STATES: dict[RunState, Text] = {
    "queued": tr("queued"),
    "running": tr("running"),
    "finished": tr("finished"),
    "stopped": tr("stopped"),
    "interrupted": tr("interrupted"),
    "failed": tr("failed"),
    "missing": tr("missing"),
}


def state_text(state: RunState) -> Text:
    """A state in the reader's language."""
    return _STATES[state]


def number(value: float | None) -> str:
    """A number with four significant digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def ago(at: float | None, now: float) -> str:
    """How long ago something was; a time in the future (a clock that jumped) is `0 s`."""
    if at is None:
        return ""
    seconds = max(0.0, now - at)
    days = int(seconds // 86_400)
    if days:
        return str(tr("{days} d ago", days=days))
    if seconds >= 3600:
        return str(tr("{hours} h ago", hours=int(seconds // 3600)))
    if seconds >= 60:
        return str(tr("{minutes} min ago", minutes=int(seconds // 60)))
    return str(tr("{seconds} s ago", seconds=int(seconds)))


def findings_of(run: Run) -> list[dict[str, Any]]:
    """What the diagnosis said of a run, and what can be said of one that vanished."""
    from slipway.core.hardware import probe
    from slipway.training.diagnose import was_killed_for_memory

    found = list(run.summary.findings.values())
    if run.state == "interrupted" and run.summary.state in ("started", "resumed"):
        killed = was_killed_for_memory(run.summary.memory_bytes, probe().memory_bytes)
        found += [killed.as_event()] if killed else []
    return found


def finding_lines(findings: Iterable[dict[str, Any]]) -> list[str]:
    """What the diagnosis found: place, cause and remedy, one line each."""
    from slipway.training.diagnose import words_of

    lines = []
    for event in findings:
        cause, remedy = words_of(event)
        place = tr("step {step}", step=event["step"]) if event.get("step") else ""
        lines.append(f"{place}: {cause}; {remedy}" if str(place) else f"{cause}; {remedy}")
    return lines


def sample_lines(event: dict[str, Any]) -> list[str]:
    """A sample as two lines: the prompt, and the answer with its line breaks marked."""
    prompt, answer = (str(event.get(key, "")).replace("\n", " ⏎ ") for key in ("prompt", "answer"))
    return [f"? {prompt}", f"  -> {answer}"]
