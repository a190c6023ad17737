"""Telling a run to stop, and putting one back into the queue."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, NotFoundError, from_os_error
from slipway.core.files import write_text
from slipway.core.i18n import tr
from slipway.core.owner import lives, process_mark
from slipway.jobs.queue import Queue, QueueItem
from slipway.jobs.run_folder import SETTINGS, STOP, trainer_of
from slipway.jobs.runs import Run, Runs


def ask_to_stop(
    runs: Runs, run: Run, *, keep: bool = False, timeout_s: float = 60.0, poll_s: float = 0.1
) -> bool:
    """Stop a run and wait until its process has let go; one that waits leaves the queue.

    Args:
        keep: end it properly with what it has: eval, artefact, manifest. Else it saves a
            checkpoint, and can be gone on with.

    Returns:
        whether it has stopped; False when it is still at it after `timeout_s`.

    Raises:
        ConflictError: it neither runs nor waits (or `keep`, and it does not run).
    """
    run.require("keep" if keep else "stop")
    if run.state == "queued":
        Queue(runs).take_out(run)
        return True
    # with the id of the process, which may still be loading and not yet hold the lock
    write_text(run.folder / STOP, f"{'keep' if keep else 'now'} {run.pid}")
    mark = process_mark(run.pid or 0)
    deadline = time.monotonic() + timeout_s
    while run.pid and (lives(run.pid, mark) and _works_at(run, runs)):
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


def _works_at(run: Run, runs: Runs) -> bool:
    """Whether the process still has to do with the run; one that outlives its training has not."""
    return run.pid in (trainer_of(run.folder), runs.started_by_queue().get(run.id))


def queue_again(runs: Runs, run: Run) -> QueueItem:
    """Let the queue go on with a run that was stopped, interrupted or failed.

    Raises:
        ConflictError: its state does not allow it.
        NotFoundError, InputError: its folder does not say how it was started.
    """
    run.require("queue")
    return Queue(runs).add(run.folder, read_settings(run.folder))


def read_settings(folder: Path) -> dict[str, Any]:
    """What `settings.json` of a run folder holds, unread."""
    path = folder / SETTINGS
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            "run.no_settings",
            tr("{path} does not say how it was started", path=str(folder)),
            tr("train with its recipe: `slipway train RECIPE --run-dir {path}`", path=str(folder)),
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise InputError(
            "run.bad_settings", tr("{path} cannot be read: {reason}", path=path, reason=error)
        ) from error
    return dict(raw)
