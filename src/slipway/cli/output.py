"""How the commands print: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from slipway.core.i18n import Text


def print_json(value: Any) -> None:
    """One JSON document on stdout, at once: a service that prints it goes on running."""
    print(json.dumps(value, ensure_ascii=False, indent=2), flush=True)


def note(text: Text | str) -> None:
    """A line for people, on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def print_table(columns: Sequence[Text | str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; tab-separated values, header first, when piped."""
    if not sys.stdout.isatty():
        print("\t".join(str(column) for column in columns))
        for row in rows:
            print("\t".join(str(cell) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(str(column), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def size(num_bytes: float) -> str:
    """Bytes for people: `98.4 MB` (powers of 1000, as disks and Ollama count)."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: `8 s`, `3:07`, `1:02:45`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LiveLine:
    """One line that is redrawn on a terminal, and printed every `plain_every_s` elsewhere."""

    def __init__(self, plain_every_s: float = 10.0) -> None:
        self._tty = sys.stderr.isatty()
        self._plain_every_s = plain_every_s
        self._last = 0.0
        self._width = 0

    def show(self, text: Text | str) -> None:
        """Show the newest state; cheap to call often."""
        now = time.monotonic()
        if self._tty and now - self._last >= 0.1:
            line = str(text)
            print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width, self._last = len(line), now
        elif not self._tty and now - self._last >= self._plain_every_s:
            print(text, file=sys.stderr, flush=True)
            self._last = now

    def done(self, text: Text | str = "") -> None:
        """End the line, with a last text if given."""
        if self._tty and str(text):
            print(f"\r{text!s:<{self._width}}", file=sys.stderr, flush=True)
        elif self._tty and self._width:
            print(file=sys.stderr, flush=True)
        elif str(text):
            print(text, file=sys.stderr, flush=True)
        self._width = 0
