"""How a pipeline of stages is shown: a line for each, and a live one for what runs."""

from __future__ import annotations

import time
from typing import Any

from slipway.cli.output import LiveLine, duration, note
from slipway.core.i18n import Text, tr

_EARLY_S = 2.0  # before that, what is left cannot be told from how far it is


class Screen:
    """Tells a pipeline's progress, one line a stage."""

    def __init__(self) -> None:
        self._live = LiveLine()
        self._clock = Clock()

    def stage(self, state: str, place: str, stage: Any, record: Any) -> None:
        label = f"[{place}] {stage.title}"
        if state == "start":
            self._clock = Clock()
            note(label)
        elif state == "cached":
            note(tr("{label}: unchanged, kept", label=label))
        else:
            self._live.done()
            note(tr("        done in {time}", time=duration(record.seconds)))

    def say(self, text: Text | str) -> None:
        self._live.done()
        note(f"        {text}")

    def event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "metric" and "loss" in event and "eta_s" in event:
            memory = event.get("memory_bytes", 0) / 2**30
            self._live.show(
                f"        {event['step']}/{event['total_steps']}  loss {event['loss']:.3f}  "
                f"{event['tokens_per_s']:.0f} tok/s  {memory:.1f} GiB  ETA "
                f"{duration(event['eta_s'])}"
            )
        elif kind == "metric" and event.get("kind") == "eval":
            self.say(tr("held-out loss {loss:.3f}", loss=event["loss"]))
        elif kind == "progress":
            self._live.show(progress_line(self._clock.with_eta(event)))
        elif kind == "log" and event.get("message"):
            self.say(str(event["message"]))


class Clock:
    """What is left of a part of a stage, by how far it came in the time since it began."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, float]] = {}

    def with_eta(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with `eta_s`, where it has none and enough was seen."""
        share = share_of(event)
        if share is None or event.get("eta_s") is not None:
            return event
        now = time.monotonic()
        part = f"{event.get('stage', '')} {event.get('quant', '')}"
        began, first = self._began.setdefault(part, (now, share))
        if share <= first or now - began < _EARLY_S:
            return event
        return {**event, "eta_s": (now - began) / (share - first) * (1 - share)}


def share_of(event: dict[str, Any]) -> float | None:
    """How much of it is done, 0..1, where the event says so."""
    share = event.get("fraction")
    if share is None and event.get("total"):
        share = event.get("done", 0) / event["total"]
    return None if share is None else float(share)


def progress_line(event: dict[str, Any]) -> str:
    """What a progress event says, on one line: what, how much of it, how long still."""
    words = [str(event[key]) for key in ("stage", "unit", "quant", "model", "part") if key in event]
    share = share_of(event)
    if share is not None:
        words.append(f"{share:.0%}")
    if event.get("eta_s") is not None:
        words.append(f"ETA {duration(event['eta_s'])}")
    return "        " + "  ".join(words)
