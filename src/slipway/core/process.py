"""Child processes that never outlive their parent, and ports.

A child gets its own process group, dies with its parent (Linux: PR_SET_PDEATHSIG), and writes to a
log file whose end is quoted in errors.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, ToolError, UsageError
from slipway.core.i18n import tr

_PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 5.0


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies; for `preexec_fn`. Linux only.

    The signal is tied to the thread that started the child, so start long-lived children from a
    thread that lives as long as the process.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def start(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    detached: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program with no standard input and its output appended to `log` (or dropped).

    Args:
        env: variables to set on top of this process's own.
        detached: let it outlive this process (background services); else it dies with it.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with open(log if log is not None else os.devnull, "ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=None if detached else die_with_parent,
        )


def stop(process: subprocess.Popen[Any], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End a child and its group: SIGTERM, then SIGKILL after `timeout_s`."""
    if process.poll() is not None:
        return
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program to its end and return what it printed (both streams, in order).

    Args:
        on_line: called with each line as it is printed, for progress.

    Raises:
        ToolError: non-zero exit, a signal, or `timeout_s` passed; the message ends with the last
            lines printed and `returncode` holds the exit status (negative: signal).
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
        preexec_fn=die_with_parent,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: list[str] = []
    assert process.stdout is not None
    with _killed_after(process, timeout_s) as expired:
        try:
            with process.stdout:
                for line in process.stdout:
                    lines.append(line)
                    if on_line:
                        on_line(line.rstrip("\n"))
            process.wait()
        finally:
            stop(process)
    if expired.is_set():
        raise _failed(command, lines, "timeout", None)
    if process.returncode:
        reason = (
            signal.Signals(-process.returncode).name
            if process.returncode < 0
            else f"exit {process.returncode}"
        )
        raise _failed(command, lines, reason, process.returncode)
    return "".join(lines)


@contextmanager
def _killed_after(
    process: subprocess.Popen[Any], timeout_s: float | None
) -> Iterator[threading.Event]:
    """Kill the group after `timeout_s` from a thread: a silent program blocks its reader."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _signal_group(process.pid, signal.SIGKILL)

    watchdog = threading.Timer(timeout_s or 0.0, expire)
    watchdog.daemon = True
    if timeout_s:
        watchdog.start()
    try:
        yield expired
    finally:
        watchdog.cancel()


def _failed(
    command: Sequence[str | Path], lines: list[str], reason: str, returncode: int | None
) -> ToolError:
    error = ToolError(
        "tool.failed",
        tr(
            "`{program}` failed ({reason}): {log}",
            program=Path(str(command[0])).name,
            reason=reason,
            log="".join(lines[-12:]).strip() or "(no output)",
        ),
    )
    error.returncode = returncode  # type: ignore[attr-defined]
    return error


def log_tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log file, for an error message; empty when there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:])


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now; the caller should bind it soon."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on `host:port` now."""
    return _bind_problem(host, port) is None


def _bind_problem(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def require_port(host: str, port: int, command: str) -> None:
    """Raise a clear error when a server could not listen on `host:port`.

    Args:
        command: the command to suggest with another port, without the `--port` part.

    Raises:
        ConflictError: the port is taken.
        UsageError: `host` is no address of this machine, or the port needs more rights.
    """
    problem = _bind_problem(host, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRINUSE:
        raise ConflictError(
            "port.in_use",
            tr("port {port} on {host} is in use by another program", port=port, host=host),
            tr("use another port: `{command} --port {other}`", command=command, other=port + 1),
        )
    denied = problem.errno in (errno.EACCES, errno.EPERM)
    raise UsageError(
        "port.unusable",
        tr(
            "cannot listen on port {port} of {host}: {reason}",
            port=port,
            host=host,
            reason=problem.strerror,
        ),
        tr("use a port above 1023: `{command} --port {other}`", command=command, other=port + 8000)
        if denied
        else tr("listen on this machine only: `{command} --host 127.0.0.1`", command=command),
    )


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    status = Path(f"/proc/{pid}/stat")
    if status.is_file():
        with suppress(OSError, IndexError):
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
    return True
