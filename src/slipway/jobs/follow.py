"""Following a run: its events from where one left off. A page, a bar or a log reads the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.events import events_from
from slipway.jobs.summary import EVENTS


def events_after(folder: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The events of a run after a byte offset, and the offset to ask for next time.

    Torn lines are passed over, and a last line without its end is left for the next time. When the
    file became shorter (the run was begun anew) reading begins at its start.
    """
    try:
        file = (folder / EVENTS).open("rb")
    except FileNotFoundError:
        return [], 0
    events = []
    with file:
        if file.seek(0, 2) < offset:
            offset = 0
        for event, end in events_from(file, offset):
            offset = end
            if event is not None:
                events.append(event)
    return events, offset
