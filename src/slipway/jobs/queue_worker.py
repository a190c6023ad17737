"""The worker of the queue: starts the next run, waits for it, and outlives no decision.

Everything it knows is in the database and in the run folders, so it may be killed at any moment:
the run it started goes on (it is no child that dies with it), and the next worker adopts it by
its process id and start. Only the holder of the worker's lock changes the state of an item.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from subprocess import Popen

from slipway.core.errors import EXIT_INTERRUPTED
from slipway.core.owner import lives, owned, process_mark
from slipway.core.paths import Home
from slipway.core.process import log_tail, start
from slipway.jobs.queue import ItemState, Queue, QueueItem, run_log, worker_lock
from slipway.jobs.run_folder import trainer_of
from slipway.jobs.runs import Run, Runs

MAX_ATTEMPTS = 3

Say = Callable[[str], None]
Command = Callable[[QueueItem], Sequence[str]]


def command_of(item: QueueItem) -> Sequence[str]:
    """The program that trains an item."""
    return [sys.executable, "-m", "slipway.cli", "runs", "queue", "train", str(item.id)]


def work(home: Home, *, say: Say, command: Command = command_of, poll_s: float = 0.5) -> bool:
    """Work until nothing waits or runs; returns False when another worker is at it.

    After letting go of the lock it looks once more: what was added in between has found a worker
    and would otherwise wait for the next one.
    """
    while True:
        with owned(worker_lock(home)) as mine:
            if not mine:
                return False
            while _next(home, say, command, poll_s):
                pass
        with Runs(home) as runs:
            if not Queue(runs).items(ended=False):
                return True


def _next(home: Home, say: Say, command: Command, poll_s: float) -> bool:
    """One item from its start to its end; False when there is none."""
    with Runs(home) as runs:
        items = Queue(runs).items(ended=False)
        if not items:
            return False
        item = items[0]
        if item.state == "running":
            if _is_alive(item):
                say(f"adopted {item.name} (process {item.pid or trainer_of(item.folder)})")
                _wait(item, None, poll_s)
            _settle(runs, item, say)
            return True
        others = [run for run in runs.all(states=["running"]) if run.id != item.run_id]
        if others:
            say(f"{item.name} waits until {others[0].name} has ended")
    if others:
        while any(trainer_of(run.folder) is not None for run in others):
            time.sleep(poll_s)
        return True
    process = _start(home, item, command, say)
    if process is not None:
        _wait(item, process, poll_s)
        with Runs(home) as runs:
            _settle(runs, item, say, process.returncode)
    return True


def _start(home: Home, item: QueueItem, command: Command, say: Say) -> Popen[bytes] | None:
    """Start an item; None when it was taken out of the queue at this moment."""
    with Runs(home) as runs:
        with runs.database.write() as connection:
            taken = connection.execute(
                "UPDATE queue SET state = 'running', attempts = attempts + 1, pid = 0, mark = '', "
                "started_at = ? WHERE id = ? AND state = 'waiting'",
                (time.time(), item.id),
            )
        if not taken.rowcount:
            return None
        process = start(
            command(item),
            log=run_log(home, item.run_id),
            env={"SLIPWAY_HOME": str(home.root)},
            detached=True,
        )
        say(f"started {item.name} (process {process.pid})")
        with runs.database.write() as connection:
            connection.execute(
                "UPDATE queue SET pid = ?, mark = ? WHERE id = ?",
                (process.pid, process_mark(process.pid), item.id),
            )
    return process


def _is_alive(item: QueueItem) -> bool:
    return lives(item.pid, item.mark) or trainer_of(item.folder) is not None


def _wait(item: QueueItem, process: Popen[bytes] | None, poll_s: float) -> None:
    """Until the item's program has ended: our child, or one that an earlier worker started."""
    while (process.poll() is None) if process else _is_alive(item):
        time.sleep(poll_s)


def _settle(runs: Runs, item: QueueItem, say: Say, code: int | None = None) -> None:
    """Write down how an item ended, by what its folder says."""
    while trainer_of(item.folder) is not None:  # somebody else trains it in our stead
        time.sleep(0.1)
    run = next((run for run in runs.all() if run.id == item.run_id), None)
    attempts = next((i.attempts for i in Queue(runs).items() if i.id == item.id), item.attempts)
    state, error = outcome(run, attempts, code, log_tail(run_log(runs.home, item.run_id), 1))
    say(f"{item.name}: {state} {error}".rstrip())
    with runs.database.write() as connection:
        connection.execute(
            "UPDATE queue SET state = ?, error = ?, pid = 0, mark = '', ended_at = ? WHERE id = ?",
            (state, error, None if state == "waiting" else time.time(), item.id),
        )


def outcome(
    run: Run | None, attempts: int, code: int | None, log: str = ""
) -> tuple[ItemState, str]:
    """What becomes of an item whose program has ended.

    Args:
        code: its exit status, if it was a child of this worker; negative: a signal.
        log: the last line it printed.

    Returns:
        the item's next state, and the reason of a failure.
    """
    if run is None or run.state == "missing":
        return "failed", f"the run left nothing behind (exit {code}): {log}"
    if run.state == "finished":
        return "done", ""
    if run.state == "stopped":
        return "stopped", ""
    died = code is not None and code < 0
    if run.state == "failed" and run.summary.error and not died:
        error = run.summary.error
        return "failed", f"{error['code']}: {error['message']}"
    if code is not None and code >= 0 and code != EXIT_INTERRUPTED:
        return "failed", f"exit {code}: {log}".rstrip(": ")
    if attempts >= MAX_ATTEMPTS:
        return "failed", f"its process died {attempts} times"
    return "waiting", ""
