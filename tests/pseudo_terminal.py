"""A person at a real pseudo-terminal: types, and waits for what must appear."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from types import TracebackType
from typing import Self


class Terminal:
    """`slipway ARGUMENTS` in a terminal of that size.

    Attributes:
        output: everything that has been shown, the typed lines included.
    """

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str], columns: int = 80
    ) -> None:
        self._ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slipway.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", **env},
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.output = ""
        self._seen = 0
        self._raw = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        """Type; a line needs its `\\n`. `\\x03` is Ctrl-C, `\\x04` is Ctrl-D."""
        os.write(self._ours, text.encode())

    def line(self, text: str) -> None:
        """Wait for the prompt and answer it with a line."""
        self.wait_for(">>> ")
        self.type(text + "\n")

    def wait_for(self, text: str, timeout_s: float = 60.0) -> str:
        """Wait until `text` appears after what was waited for before; what came up to it."""
        deadline = time.monotonic() + timeout_s
        while (at := self.output.find(text, self._seen)) < 0:
            assert self._read(deadline), f"no {text!r} in {self.output[self._seen :]!r}"
        found = self.output[self._seen : at]
        self._seen = at + len(text)
        return found

    def leave(self) -> int:
        """Wait for the prompt and press Ctrl-D; the exit code."""
        self.wait_for(">>> ")
        self.type("\x04")
        return self.end()

    def end(self, timeout_s: float = 30.0) -> int:
        """Wait for the end of the program; its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Take what has been shown; False at the end or when the time is over."""
        if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self._raw += data
        text = self._raw.decode(errors="ignore")
        self._raw = self._raw[len(text.encode()) :]
        self.output += text.replace("\r\n", "\n")
        return bool(data)
