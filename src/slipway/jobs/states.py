"""The states of a run, and what may be done in each: the one place where they stand.

A state is never stored. It is derived, at every look, from facts that cannot go stale: whether a
process that holds the folder's lock lives, whether the folder has a manifest, what the run's last
words were, and whether the queue waits for it. So a kill, a restart, a restored backup or a
removed index never leave a run "running" that is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RunState = Literal["queued", "running", "finished", "stopped", "interrupted", "failed", "missing"]
Action = Literal["stop", "keep", "resume", "queue", "remove"]

# state -> the states that may follow it, and by what
TRANSITIONS: dict[RunState, dict[RunState, str]] = {
    "queued": {
        "running": "the queue's worker, or somebody, starts it",
        "missing": "taken out of the queue before it had a folder",
        "interrupted": "taken out of the queue; it had been started before",
        "stopped": "taken out of the queue; it had been started before",
        "failed": "taken out of the queue; it had been started before",
    },
    "running": {
        "finished": "its plan is done, or it was told to keep what it has",
        "stopped": "`slipway runs stop`",
        "interrupted": "Ctrl-C, SIGTERM, kill -9, or the machine went down",
        "failed": "an error, which stands in its events",
    },
    "stopped": {"running": "resumed", "queued": "queued", "missing": "its folder was removed"},
    "interrupted": {"running": "resumed", "queued": "queued", "missing": "its folder was removed"},
    "failed": {"running": "resumed", "queued": "queued", "missing": "its folder was removed"},
    "finished": {
        "running": "trained anew with `--fresh`",
        "queued": "queued to be trained anew",
        "missing": "its folder was removed",
    },
    "missing": {"running": "trained again", "queued": "queued again"},
}

ALLOWED: dict[Action, frozenset[RunState]] = {
    "stop": frozenset({"running", "queued"}),
    "keep": frozenset({"running"}),
    "resume": frozenset({"stopped", "interrupted", "failed"}),
    "queue": frozenset({"stopped", "interrupted", "failed", "missing"}),
    "remove": frozenset({"queued", "finished", "stopped", "interrupted", "failed", "missing"}),
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a state follows from.

    Attributes:
        folder: whether the run's folder is there, with anything of the run in it.
        alive: whether the process that holds its lock lives.
        manifest: whether it has a manifest, its last file.
        waiting: whether the queue has it and has not yet started it.
        last: the `state` of its last event of that type; empty without one.
    """

    folder: bool
    alive: bool
    manifest: bool
    waiting: bool
    last: str = ""


def state_of(facts: Facts) -> RunState:
    """The state that follows from the facts."""
    if facts.alive:
        return "running"
    if facts.waiting:
        return "queued"
    if not facts.folder:
        return "missing"
    if facts.manifest:
        return "finished"
    if facts.last == "stopped":
        return "stopped"
    if facts.last == "failed":
        return "failed"
    return "interrupted"
