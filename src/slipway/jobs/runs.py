"""The index of runs: all of them, whoever started them, found by name, with tags and notes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from slipway.core.errors import ConflictError, NotFoundError, SlipwayError, nearest
from slipway.core.i18n import Text, tr
from slipway.core.manifest import FILE_NAME, read_manifest
from slipway.core.owner import lives
from slipway.core.paths import Home
from slipway.jobs.database import Database
from slipway.jobs.run_folder import (
    is_run,
    manifest_of,
    new_folders,
    remember,
    remove_folder,
    run_id,
    settings_of,
    trainer_of,
)
from slipway.jobs.states import ALLOWED, Action, Facts, RunState, state_of
from slipway.jobs.summary import EVENTS, Position, RunSummary, dumps, loads, read_on

_LEAST_ID = 4  # shorter beginnings are meant as names


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it is now.

    Attributes:
        place: its place in the queue from 1, while it waits there.
        pid: the process that trains it now.
    """

    id: str
    name: str
    folder: Path
    state: RunState
    summary: RunSummary
    tags: tuple[str, ...] = ()
    note: str = ""
    place: int | None = None
    pid: int | None = None

    def require(self, action: Action) -> None:
        """Raise a ConflictError when this cannot be done with a run in its state."""
        if self.state in ALLOWED[action]:
            return
        raise ConflictError(
            "runs.wrong_state",
            tr(
                "the run {name} is {state}; `{action}` is for runs that are {states}",
                name=self.name,
                state=self.state,
                action=action,
                states=", ".join(sorted(ALLOWED[action])),
            ),
            tr("see it with `slipway runs show {name}`", name=self.name),
        )


@dataclass(frozen=True, slots=True)
class Heir:
    """Something that was made from a run."""

    kind: str
    path: Path


class Runs:
    """The runs of a home; a context manager that closes its database.

    The database is a cache (of where folders are, and of what their events come to) and the owner
    of tags, notes and the queue. Without it, or with a full disk, everything else still works.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.database = Database(home.runs_db)

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.database.close()

    @property
    def problems(self) -> list[Text]:
        """What a reader should be told about the index itself."""
        return self.database.problems

    def register(self, folder: Path, tags: Iterable[str] = ()) -> str:
        """Enter a run's folder, which need not be there yet; returns its id.

        Raises:
            ResourceError, ConflictError: the index cannot be written now.
        """
        folder = folder.absolute()
        remember(self.home, folder)
        with self.database.write() as connection:
            return self.enter(connection, folder, tags)

    @staticmethod
    def enter(connection: sqlite3.Connection, folder: Path, tags: Iterable[str] = ()) -> str:
        """Enter a folder within a transaction of the caller's."""
        number = run_id(folder)
        connection.execute(
            "INSERT OR IGNORE INTO runs (id, name, folder, registered_at) VALUES (?, ?, ?, ?)",
            (number, folder.name, str(folder), time.time()),
        )
        for tag in tags:
            connection.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (number, tag))
        return number

    def all(self, *, states: Collection[RunState] = (), tags: Collection[str] = ()) -> list[Run]:
        """Every run, newest first; optionally only some states, or those with all of `tags`."""
        self._discover()
        found = [
            run
            for run in self._load("SELECT * FROM runs")
            if (not states or run.state in states) and set(tags) <= set(run.tags)
        ]
        return sorted(found, key=_newest_first)

    def _load(self, query: str, *values: str) -> list[Run]:
        """The runs of some rows of the index, as they are now."""
        connection = self.database.connection
        marked: dict[str, list[str]] = {}
        for row in connection.execute("SELECT run_id, tag FROM tags ORDER BY tag"):
            marked.setdefault(row["run_id"], []).append(row["tag"])
        notes = {r["run_id"]: r["note"] for r in connection.execute("SELECT * FROM notes")}
        waiting = connection.execute(
            "SELECT run_id FROM queue WHERE state = 'waiting' ORDER BY position, id"
        )
        places = {row["run_id"]: place for place, row in enumerate(waiting, 1)}
        started = self.started_by_queue()
        found, read = [], []
        for row in connection.execute(query, values).fetchall():
            summary, update = self._summary(row)
            if update:
                read.append(update)
            number = row["id"]
            known = (tuple(marked.get(number, ())), notes.get(number, ""), places.get(number))
            pid = trainer_of(Path(row["folder"])) or started.get(number)
            found.append(_run(row, summary, *known, pid))
        self._cache(read)
        return found

    def started_by_queue(self) -> dict[str, int]:
        """The programs that the queue has started and that live, by the id of their run.

        It takes them some seconds until they hold their run's lock.
        """
        rows = self.database.connection.execute(
            "SELECT run_id, pid, mark FROM queue WHERE state = 'running'"
        )
        return {row["run_id"]: row["pid"] for row in rows if lives(row["pid"], row["mark"])}

    def _discover(self) -> None:
        """Enter the folders that nobody registered: of a lost index, or copied here."""
        known = {row[0] for row in self.database.connection.execute("SELECT folder FROM runs")}
        if new := new_folders(self.home, known):
            self._quietly(lambda c: [self.enter(c, p, _own_tags(p)) for p in new])

    def _summary(self, row: sqlite3.Row) -> tuple[RunSummary, tuple[str, int, int, str] | None]:
        cached = loads(row["summary"]) if row["summary"] else None
        at = Position(row["inode"], row["offset"]) if cached else Position()
        summary, new = read_on(Path(row["folder"]) / EVENTS, cached or RunSummary(), at)
        if new == at:
            return summary, None
        if cached and new == Position() and not is_run(Path(row["folder"])):
            return cached, None  # removed by hand: the index still knows how it went
        return summary, (dumps(summary), new.inode, new.offset, row["id"])

    def _cache(self, read: list[tuple[str, int, int, str]]) -> None:
        if read:
            self._quietly(
                lambda c: c.executemany(
                    "UPDATE runs SET summary = ?, inode = ?, offset = ? WHERE id = ?", read
                )
            )

    def _quietly(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Write what can be found again; a full disk costs time, not the answer."""
        try:
            with self.database.write() as connection:
                work(connection)
        except SlipwayError as error:
            if error.message not in self.problems and isinstance(error.message, Text):
                self.problems.append(error.message)
            self.database.work_in_memory()
            work(self.database.connection)

    def find(self, name: str) -> Run:
        """The run of that name, id, folder, or unique beginning of a name or id.

        Raises:
            NotFoundError: no run is called so.
            ConflictError: several are.
        """
        by_name = self._load("SELECT * FROM runs WHERE name = ? OR id = ?", name, name)
        if len(by_name) == 1:
            return by_name[0]
        runs = self.all()
        path = Path(name).expanduser()
        if path.is_dir() and is_run(path):
            here = path.absolute()
            for run in runs:
                if run.folder == here:
                    return run
            self.register(here, _own_tags(here))
            return self.find(run_id(here))
        exact = [run for run in runs if name in (run.name, run.id)]
        by_id = len(name) >= _LEAST_ID
        found = exact or [
            r for r in runs if r.name.startswith(name) or (by_id and r.id.startswith(name))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConflictError(
                "runs.ambiguous",
                tr("`{name}` is the beginning of {count} runs", name=name, count=len(found)),
                tr(
                    "give one of these ids: {names}",
                    names=", ".join(f"{run.id} ({run.name})" for run in found[:8]),
                ),
            )
        close = nearest(name, [run.name for run in runs])
        raise NotFoundError(
            "runs.not_found",
            tr("there is no run `{name}`", name=name),
            tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
            if close
            else tr("see them with `slipway runs ls`"),
        )

    def tag(self, run: Run, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Put words on a run, or take them away."""
        with self.database.write() as connection:
            for tag in add:
                connection.execute("INSERT OR IGNORE INTO tags VALUES (?, ?)", (run.id, tag))
            for tag in remove:
                connection.execute("DELETE FROM tags WHERE run_id = ? AND tag = ?", (run.id, tag))

    def note(self, run: Run, text: str) -> None:
        """Put a note on a run; an empty one removes it."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM notes WHERE run_id = ?", (run.id,))
            if text:
                connection.execute("INSERT INTO notes VALUES (?, ?)", (run.id, text))

    def heirs(self, run: Run) -> list[Heir]:
        """What was made from a run: merged models and runs that go on from its adapter."""
        manifest = manifest_of(run.folder)
        found = []
        if manifest and self.home.artefacts.is_dir():
            for path in sorted(self.home.artefacts.glob(f"*/{FILE_NAME}")):
                with suppress(SlipwayError):
                    child = read_manifest(path.parent)
                    if manifest.digest in child.parents.values():
                        found.append(Heir(child.kind, path.parent))
        for other in self.all():
            settings = settings_of(other.folder) if other.id != run.id else {}
            used = [settings[key].value for key in _FROM_RUNS if key in settings]
            if any(_within(value, run.folder) for value in used):
                found.append(Heir("run", other.folder))
        return found

    def require_removable(self, run: Run, *, force: bool = False) -> None:
        """Raise the ConflictError that `remove` would raise."""
        run.require("remove")
        heirs = self.heirs(run)
        if heirs and not force:
            raise ConflictError(
                "runs.has_heirs",
                tr(
                    "{count} things were made from the run {name}: {names}",
                    count=len(heirs),
                    name=run.name,
                    names=", ".join(f"{heir.kind} {heir.path}" for heir in heirs[:5]),
                ),
                tr("remove it all the same with `slipway runs rm {name} --force`", name=run.name),
            )

    def remove(self, run: Run, *, force: bool = False) -> None:
        """Remove a run's folder and all that the index knows of it.

        Args:
            force: also when other things were made from it; they stay, but lose their origin.

        Raises:
            ConflictError: it runs now, or something was made from it and `force` is not given.
        """
        self.require_removable(run, force=force)
        remove_folder(run.folder, whole=run.folder.parent == self.home.runs)
        with self.database.write() as connection:
            for table, column in (("runs", "id"), ("tags", "run_id"), ("notes", "run_id")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (run.id,))
            connection.execute("DELETE FROM queue WHERE run_id = ?", (run.id,))


def registering(
    home: Home, folder: Path, tags: Iterable[str], say: Callable[[Text | str], object]
) -> Callable[[dict[str, Any]], None]:
    """A listener that enters a run in the index at its first event, when its folder is there.

    Args:
        say: told when the index cannot be written; the run is found again later all the same.
    """
    done: list[bool] = []

    def listen(event: dict[str, Any]) -> None:
        if done:
            return
        done.append(True)
        try:
            with Runs(home) as runs:
                runs.register(folder, tags)
        except SlipwayError as error:
            say(error.message)

    return listen


def _newest_first(run: Run) -> tuple[int, float]:
    """What waits stands at the top, the last of the queue first."""
    if run.place is not None:
        return 0, -run.place
    return 1, -(run.summary.started_at or 0.0)


_FROM_RUNS = ("adapter", "model", "preference.ref_model", "rl.reward_model")


def _within(value: object, folder: Path) -> bool:
    return isinstance(value, str) and Path(value).is_relative_to(folder)


def _own_tags(folder: Path) -> list[str]:
    """The tags its recipe gives a run."""
    tags = settings_of(folder, None).get("tags")
    return [str(tag) for tag in tags.value] if tags and isinstance(tags.value, list) else []


def _run(
    row: sqlite3.Row,
    summary: RunSummary,
    tags: tuple[str, ...],
    note: str,
    place: int | None,
    pid: int | None,
) -> Run:
    folder = Path(row["folder"])
    facts = Facts(
        folder=is_run(folder),
        alive=pid is not None,
        manifest=(folder / FILE_NAME).is_file(),
        waiting=place is not None,
        last=summary.state,
    )
    state = state_of(facts)
    where = place if state == "queued" else None
    return Run(row["id"], row["name"], folder, state, summary, tags, note, where, pid)
