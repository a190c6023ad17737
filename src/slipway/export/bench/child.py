"""Run a benchmark program, hand over each line as it comes, and watch its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.core.i18n import tr

OnLine = Callable[[str, int | None], None]
"""A line of standard output, and the most memory the process has had resident, bytes."""


class TimeUpError(Exception):
    """The time given is over; the program was ended."""


def run_watched(
    command: Sequence[str | Path], on_line: OnLine, *, timeout_s: float | None = None
) -> None:
    """Run a program to its end.

    Raises:
        TimeUpError: `timeout_s` passed.
        ToolError: non-zero exit or a signal; the end of its standard error is quoted.
    """
    up = threading.Event()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            preexec_fn=process.die_with_parent,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert child.stdout is not None

        def expire() -> None:
            up.set()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)

        watchdog = threading.Timer(timeout_s or 0.0, expire)
        watchdog.daemon = True
        if timeout_s is not None:
            watchdog.start()
        try:
            with child.stdout:
                for line in child.stdout:
                    on_line(line.rstrip("\n"), peak_bytes(child.pid))
            child.wait()
        finally:
            watchdog.cancel()
            process.stop(child)
        if up.is_set():
            raise TimeUpError
        if child.returncode:
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace")
            raise _failed(command, child.returncode, text)


def peak_bytes(pid: int) -> int | None:
    """The most memory a process has had resident so far; where /proc is not there, has now."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _failed(command: Sequence[str | Path], code: int, text: str) -> ToolError:
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return ToolError(
        "tool.failed",
        tr(
            "`{program}` failed ({reason}): {log}",
            program=Path(str(command[0])).name,
            reason=name,
            log="\n".join(text.strip().splitlines()[-6:]) or "(no output)",
        ),
    )
