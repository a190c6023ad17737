"""The run folder's own rules: its file names, its settings, its lock, and how it is told to stop.

settings.json   the resolved recipe with the origin of each value; there from the first second
.lock           held, and naming its process, while a process trains here
stop            written by others: `now` saves a checkpoint and ends the process, `keep` ends
                the run after the step in hand as if its plan had been that long
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slipway.core.errors import ConflictError, InputError, NotFoundError
from slipway.core.files import write_json
from slipway.core.i18n import tr
from slipway.core.owner import owned
from slipway.training.spec import Resolved, TrainSpec

ADAPTER = "adapter"
MODEL = "model"
BEST_FOLDER = "best"
REFERENCE = "reference"
RECIPE = "recipe.yaml"
SETTINGS = "settings.json"
EVENTS = "events.jsonl"
CURVE = "loss_curve.png"
LOCK = ".lock"
STOP = "stop"


class StopAsked(KeyboardInterrupt):
    """Somebody asked this run to stop now, by its folder's `stop` file."""


def settings_json(resolved: Resolved) -> dict[str, Any]:
    """What a run was started with, so that it can be shown, compared and gone on with."""
    return {
        "spec": resolved.spec.model_dump(mode="json"),
        "origins": dict(resolved.origins),
        "recipe": str(resolved.path.absolute()) if resolved.path else None,
    }


def write_settings(run_dir: Path, resolved: Resolved) -> None:
    """Write `settings_json` into the run folder."""
    write_json(run_dir / SETTINGS, settings_json(resolved))


def read_settings(run_dir: Path) -> Resolved:
    """The recipe a run folder was started with.

    Raises:
        NotFoundError: no run was started there by this version.
        InputError: the file is damaged.
    """
    path = run_dir / SETTINGS
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return resolved_from(raw)
    except FileNotFoundError as error:
        raise NotFoundError(
            "run.no_settings",
            tr("{path} does not say how it was started", path=str(run_dir)),
            tr("train with its recipe: `slipway train RECIPE --run-dir {path}`", path=str(run_dir)),
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "run.bad_settings",
            tr("{path} cannot be read: {reason}", path=str(path), reason=str(error)),
            tr("train with its recipe: `slipway train RECIPE --run-dir {path}`", path=str(run_dir)),
        ) from error


def resolved_from(raw: dict[str, Any]) -> Resolved:
    """The inverse of `settings_json`."""
    recipe = Path(raw["recipe"]) if raw.get("recipe") else None
    return Resolved(TrainSpec.model_validate(raw["spec"]), dict(raw["origins"]), recipe)


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the run folder's lock; the kernel frees it when the process ends, however it ends.

    Raises:
        ConflictError: another process trains there.
    """
    with owned(run_dir / LOCK) as mine:
        if not mine:
            raise ConflictError(
                "run.busy",
                tr("another process is training in {path}", path=str(run_dir)),
                tr("wait for it, or give another `--run-dir`"),
            )
        yield


def keep_asked(run_dir: Path) -> bool:
    """Whether the run is to end with what it has."""
    return _asked(run_dir / STOP) == "keep"


def _asked(path: Path) -> str:
    """What the file asks of this process: `now`, `keep`, or nothing.

    A process id after the word says whom it is for; without one it is for whoever trains here.
    """
    try:
        words = path.read_text(encoding="utf-8").split() if path.is_file() else []
    except OSError:
        return ""
    for_me = len(words) == 1 or (len(words) == 2 and words[1] == str(os.getpid()))
    return words[0] if for_me else ""


def _is_addressed_to_me(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").split()[1:] == [str(os.getpid())]
    except OSError:
        return False


@contextmanager
def stop_flag(run_dir: Path) -> Iterator[Callable[[], None]]:
    """A function that raises once SIGINT or SIGTERM has come, or the folder's file says `now`.

    So a stop never lands inside an optimiser step. A second Ctrl-C interrupts at once. Outside
    the main thread, where Python allows no handlers, only the file counts.

    Raises (by the function):
        StopAsked: by the file.
        KeyboardInterrupt: by a signal.
    """
    asked: list[int] = []
    path = run_dir / STOP
    if not _is_addressed_to_me(path):
        path.unlink(missing_ok=True)  # meant for an earlier process

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop() -> None:
        if asked:
            raise KeyboardInterrupt
        if _asked(path) == "now":
            raise StopAsked

    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.getsignal(number) for number in signals}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        path.unlink(missing_ok=True)
