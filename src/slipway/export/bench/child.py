"""Run a benchmark program, hand over each line as it comes, and watch its memory."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.core.i18n import tr

_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of the process and of the machine when a line came.

    Attributes:
        peak_bytes: most memory that the process has had resident so far.
        others: share of the processor (0..1) that other programs took since the line before.
    """

    peak_bytes: int | None
    others: float | None


OnLine = Callable[[str, Watched], None]
"""A line of standard output with what was seen."""


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
        clock, memory = _Clock(child.pid), _Memory(child.pid)
        try:
            with child.stdout, memory:
                for line in child.stdout:
                    on_line(line.rstrip("\n"), Watched(memory.peak(), clock.others()))
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


class _Clock:
    """Processor time of the machine less that of one process, from one look to the next."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._last = self._look()

    def others(self) -> float | None:
        """The share that all others took since the last look; None when it cannot be told."""
        before, now = self._last, self._look()
        self._last = now
        if before is None or now is None or now[0] - before[0] < 0.01:
            return None
        wall, busy, own = (late - early for late, early in zip(now, before, strict=True))
        return max(0.0, min(1.0, (busy - own) / (wall * (os.cpu_count() or 1))))

    def _look(self) -> tuple[float, float, float] | None:
        import psutil

        try:
            own = psutil.Process(self._pid).cpu_times()
        except psutil.Error:
            return None
        every = psutil.cpu_times()
        idle = every.idle + getattr(every, "iowait", 0.0)
        # the guests of a host are counted twice, and time stolen by one is no program's here
        extra = getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)
        busy = sum(every) - idle - extra - getattr(every, "steal", 0.0)
        return time.monotonic(), busy, own.user + own.system


class _Memory:
    """The peak of a process, looked at now and then: the last line may come as it ends."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._known: int | None = None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._watcher.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            self.peak()

    def peak(self) -> int | None:
        found = peak_bytes(self._pid)
        self._known = found if found is not None else self._known
        return self._known


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
