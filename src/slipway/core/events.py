"""`events.jsonl`: what long work says while it runs.

Work appends typed events; the progress bar, the report and any page are readers of the file. A
line is written with one `write` call and a torn last line (a kill in the middle) is passed over
by readers, so the file needs no repair.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from slipway.core.errors import from_os_error

EventType = Literal["state", "progress", "metric", "log", "artefact", "sample", "diagnosis"]

Listener = Callable[[dict[str, Any]], None]


class EventLog:
    """Appends events to a file and hands each to the listeners (a progress bar, a test).

    An event is `{"type": ..., "at": <unix seconds>, **data}`.

    Raises (also when an event is emitted):
        SlipwayError: the disk is full or the file is not writable.
    """

    def __init__(self, path: Path | None, *listeners: Listener) -> None:
        self.path = path
        self._listeners = list(listeners)
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _end_torn_line(path)
            except OSError as error:
                raise from_os_error(error, path) from error

    def subscribe(self, listener: Listener) -> None:
        """Hand every later event to `listener` too."""
        self._listeners.append(listener)

    def emit(self, type: EventType, **data: Any) -> None:
        """Append one event."""
        event = {"type": type, "at": round(time.time(), 3), **data}
        if self.path is not None:
            line = json.dumps(event, ensure_ascii=False) + "\n"
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise from_os_error(error, self.path) from error
        for listener in self._listeners:
            listener(event)


def _end_torn_line(path: Path) -> None:
    """After a kill the last line may be cut; end it so that the next event stands alone."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def read_events(path: Path, type: EventType | None = None) -> Iterator[dict[str, Any]]:
    """The events of a file in order, passing over torn lines; optionally of one type."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and (type is None or event.get("type") == type):
                yield event


def events_from(file: IO[bytes], offset: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """The lines after a byte offset of an open file, each as its event and the offset behind it.

    A line that holds no event (it was torn by a kill) comes as None; a last line without its end is
    left for the next time.
    """
    file.seek(offset)
    for line in file:
        if not line.endswith(b"\n"):
            return
        offset += len(line)
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        yield (event if isinstance(event, dict) else None), offset
