"""The queue: runs that wait for their turn, one at a time.

waiting -> running     the worker took it; or, after a kill, takes it again (it resumes)
waiting -> (removed)   taken out
running -> done        the run finished
running -> failed      it failed, or died `MAX_ATTEMPTS` times; the next one follows
running -> stopped     somebody stopped it
running -> waiting     its process is gone without an end, and there are attempts left
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipway.core.errors import ConflictError, NotFoundError
from slipway.core.i18n import tr
from slipway.core.owner import owner_of
from slipway.core.paths import Home
from slipway.core.process import start
from slipway.jobs.run_folder import remember
from slipway.jobs.runs import Run, Runs

ItemState = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A run in the queue, or one that was.

    Attributes:
        settings: what the run's `settings.json` will hold: the values as they were when it was
            queued; a recipe that changes later does not change it.
        attempts: how often the worker started it.
        error: code and message of its failure; empty otherwise.
    """

    id: int
    run_id: str
    name: str
    folder: Path
    settings: dict[str, Any]
    fresh: bool
    state: ItemState
    attempts: int
    pid: int
    mark: str
    added_at: float
    started_at: float | None
    ended_at: float | None
    error: str


class Queue:
    """The queue of a home, in the index of its runs."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.home = runs.home

    def add(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        fresh: bool = False,
        tags: Iterable[str] = (),
    ) -> QueueItem:
        """Put a run at the end of the queue.

        Raises:
            ConflictError: it waits or runs already.
            ResourceError: the disk is full; nothing was queued.
        """
        folder = folder.absolute()
        remember(self.home, folder)
        with self.runs.database.write() as connection:
            run_id = self.runs.enter(connection, folder, tags)
            try:
                found = connection.execute(
                    "INSERT INTO queue (run_id, name, folder, settings, fresh, position, added_at) "
                    "VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(position), 0) + 1 FROM queue), ?)",
                    (
                        run_id,
                        folder.name,
                        str(folder),
                        json.dumps(settings, ensure_ascii=False),
                        fresh,
                        time.time(),
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise ConflictError(
                    "queue.there_already",
                    tr("the run {name} is in the queue already", name=folder.name),
                    tr("see it with `slipway runs queue ls`"),
                ) from error
            number = found.lastrowid
        return next(item for item in self.items() if item.id == number)

    def items(self, *, ended: bool = True) -> list[QueueItem]:
        """Those that ended (oldest first), the one that runs, and those that wait, in order."""
        rows = self.runs.database.connection.execute(
            "SELECT * FROM queue ORDER BY CASE state WHEN 'waiting' THEN 2 WHEN 'running' THEN 1 "
            "ELSE 0 END, CASE state WHEN 'waiting' THEN position ELSE ended_at END, id"
        )
        items = [_item(row) for row in rows]
        return [item for item in items if ended or item.state in ("waiting", "running")]

    def move(self, run: Run, place: int) -> None:
        """Move a waiting run to a place, from 1; a place beyond the end is the end.

        Raises:
            NotFoundError: it does not wait.
        """
        with self.runs.database.write() as connection:
            rows = connection.execute(
                "SELECT id, run_id FROM queue WHERE state = 'waiting' ORDER BY position, id"
            ).fetchall()
            order = [row["id"] for row in rows if row["run_id"] != run.id]
            mine = [row["id"] for row in rows if row["run_id"] == run.id]
            if not mine:
                raise _not_waiting(run)
            order[max(0, place - 1) : max(0, place - 1)] = mine
            connection.executemany(
                "UPDATE queue SET position = ? WHERE id = ?",
                [(position, number) for position, number in enumerate(order, 1)],
            )

    def take_out(self, run: Run) -> None:
        """Remove a waiting run from the queue; its folder, if any, stays.

        Raises:
            NotFoundError: it does not wait.
        """
        with self.runs.database.write() as connection:
            gone = connection.execute(
                "DELETE FROM queue WHERE run_id = ? AND state = 'waiting'", (run.id,)
            )
            if not gone.rowcount:
                raise _not_waiting(run)
            others = connection.execute("SELECT 1 FROM queue WHERE run_id = ?", (run.id,))
            if not others.fetchone() and not run.folder.exists():
                connection.execute("DELETE FROM runs WHERE id = ?", (run.id,))

    def worker(self) -> int | None:
        """The process id of the worker, if one is at it."""
        return owner_of(worker_lock(self.home))

    def start_worker(self) -> bool:
        """Start a worker in the background unless one is there; returns whether it did.

        Two that are started at once do no harm: the lock lets only one of them stay.
        """
        if self.worker() is not None:
            return False
        process = start(
            [sys.executable, "-m", "slipway.cli", "runs", "queue", "work"],
            log=worker_log(self.home),
            env={"SLIPWAY_HOME": str(self.home.root)},
            detached=True,
        )
        deadline = time.monotonic() + 10
        while self.worker() is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # It is meant to outlive us: without this, Popen warns that nobody waited for its child.
        process.returncode = process.poll() or 0
        return True


def worker_lock(home: Home) -> Path:
    """The lock that the one worker of a home holds."""
    return home.root / "queue.lock"


def worker_log(home: Home) -> Path:
    """What the worker printed."""
    return home.logs / "queue.log"


def run_log(home: Home, run_id: str) -> Path:
    """What a run that the queue started printed."""
    return home.logs / f"run-{run_id}.log"


def _not_waiting(run: Run) -> NotFoundError:
    return NotFoundError(
        "queue.not_waiting",
        tr("the run {name} does not wait in the queue", name=run.name),
        tr("see it with `slipway runs queue ls`"),
    )


def _item(row: sqlite3.Row) -> QueueItem:
    values = {key: row[key] for key in row.keys() if key != "position"}  # noqa: SIM118
    settings: dict[str, Any] = {}
    with suppress(ValueError):
        settings = json.loads(values["settings"])
    return QueueItem(
        **{
            **values,
            "folder": Path(values["folder"]),
            "settings": settings,
            "fresh": bool(values["fresh"]),
        }
    )
