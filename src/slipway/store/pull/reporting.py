"""One place that says how far a pull is: to the caller's function and to the event log."""

from __future__ import annotations

import time
from collections.abc import Callable

from slipway.core.events import EventLog

OnBytes = Callable[[int, int | None], None]
_EVENT_EVERY_S = 1.0


class Progress:
    """Counts bytes over several files and reports them.

    Args:
        total: bytes of all files, None if unknown.
    """

    def __init__(
        self, events: EventLog | None, on_progress: OnBytes | None, total: int | None = None
    ) -> None:
        self._events = events
        self._on_progress = on_progress
        self.total = total
        self._before = 0
        self._last = 0.0

    def bytes(self, done: int, total: int | None) -> None:
        """Progress of the current file, as `core.download` reports it."""
        whole = self.total if self.total is not None else total
        if self._on_progress:
            self._on_progress(self._before + done, whole)
        now = time.monotonic()
        if self._events and (now - self._last >= _EVENT_EVERY_S or done == total):
            self._last = now
            self._events.emit(
                "progress", stage="download", done_bytes=self._before + done, total_bytes=whole
            )

    def file_done(self, size: int) -> None:
        """The current file, of `size` bytes, is complete."""
        self._before += size

    def stage(self, name: str) -> None:
        """A step other than a download begins."""
        if self._events:
            self._events.emit("progress", stage=name)
