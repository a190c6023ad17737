"""Processes of a benchmark on Linux: pinned to a core, watched through /proc, ended at its end."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_S = 180.0


@dataclass(frozen=True)
class Cores:
    """One core for the gateway under test; load and upstream have the others."""

    gateway: frozenset[int]
    load: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        free = sorted(os.sched_getaffinity(0))
        return cls(frozenset(free[-1:]), frozenset(free[:-1] or free))

    @property
    def apart(self) -> bool:
        """False on a machine of one core, where all share it."""
        return self.gateway.isdisjoint(self.load)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str | Path],
    cores: frozenset[int],
    *,
    port: int,
    log: Path,
    env: Mapping[str, str],
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A server process on these cores, and the seconds until its port was open.

    Raises:
        RuntimeError: it ended, or did not open its port in time; with the end of its log.
    """
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        try:
            _wait_for_port(process, port, log)
            yield process, time.perf_counter() - began
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not open its port:\n{tail}")
        time.sleep(0.05)


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, all its threads, user and system."""
    # Linux's clock of another process: see clock_getcpuclockid(3)
    return time.clock_gettime((~pid << 3) | 2)


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has ended")
