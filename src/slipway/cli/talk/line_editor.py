"""Reading lines at a terminal, with editing, history and completion where readline is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_MOST_LINES = 1000
_FALSE = ("", "0", "false")


class LineEditor:
    """`input` with a history file that only its owner may read.

    Args:
        path: the history file.
        complete: the ways to go on with a line that has been begun.

    Attributes:
        remembers: whether new lines join the history; OLLAMA_NOHISTORY starts without.
    """

    def __init__(self, path: Path, complete: Callable[[str], list[str]]) -> None:
        self.remembers = os.environ.get("OLLAMA_NOHISTORY", "").lower() in _FALSE
        self._path = path
        self._complete = complete
        self._found: list[str] = []
        self._readline: Any = None
        try:
            import readline
        except ImportError:  # not on every platform; plain lines then
            return
        self._readline = readline
        with suppress(OSError, UnicodeDecodeError):
            readline.read_history_file(path)
        readline.set_history_length(_MOST_LINES)
        readline.set_auto_history(False)
        readline.set_completer_delims("")
        readline.set_completer(self._candidate)
        readline.parse_and_bind("tab: complete")

    def read(self, prompt: str) -> str:
        """A line without its end.

        Raises:
            EOFError: Ctrl-D, or the end of the input.
            KeyboardInterrupt: Ctrl-C.
        """
        line = input(prompt)
        if self._readline is not None and self.remembers and line.strip():
            self._readline.add_history(line)
        return line

    def save(self) -> None:
        """Write the history; a disk that is full or read-only loses it, not the conversation."""
        if self._readline is None or not self.remembers:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._path.chmod(0o600)
            self._readline.write_history_file(self._path)

    def _candidate(self, text: str, state: int) -> str | None:
        if state == 0:
            self._found = self._complete(text)
        return self._found[state] if state < len(self._found) else None
