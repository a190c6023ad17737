"""Who works in a place now: a lock file that names its holder.

The lock itself is the kernel's (`flock`), so two holders are impossible and a killed one lets go.
The file names the holder's process and its start, for readers that must not touch the lock: a
probe that takes it, if only for a moment, could turn a starting holder away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_mark(pid: int) -> str:
    """What tells a process from a later one with the same id; empty when it does not run.

    On Linux it is the boot and the start in ticks since the boot: when the clock jumps, or a
    container comes back with the same small ids, it is not mistaken.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else f"{_BOOT_ID.read_text().strip()}:{fields[19]}"
    except (OSError, IndexError):
        pass
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{process.create_time():.0f}"
    return ""


def lives(pid: int, mark: str) -> bool:
    """Whether that very process still runs."""
    return bool(mark) and pid > 0 and process_mark(pid) == mark


@contextmanager
def owned(lock: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields False when another process holds it."""
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        with suppress(OSError):  # a full disk: it is held, though it names nobody
            file.write(json.dumps({"pid": os.getpid(), "mark": process_mark(os.getpid())}))
            file.flush()
        try:
            yield True
        finally:
            with suppress(OSError):
                file.truncate(0)


def owner_of(lock: Path) -> int | None:
    """The process id of the holder of a lock file made by `owned`; None when nobody holds it."""
    try:
        record = json.loads(lock.read_text(encoding="utf-8"))
        pid, mark = int(record["pid"]), str(record["mark"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return pid if lives(pid, mark) else None
