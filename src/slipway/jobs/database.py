"""`SLIPWAY_HOME/runs.db`: opened, migrated, and when it is damaged set aside and made anew.

What is lost with it can be made again from the run folders, but for tags, notes and the queue;
those are taken over from the damaged file as far as they can be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from slipway.core.errors import ConflictError, ResourceError, SlipwayError, from_os_error
from slipway.core.files import locked
from slipway.core.i18n import Text, tr

BUSY_TIMEOUT_S = 15.0
# each takes the database from the version of its index to the next; never change one, add one
MIGRATIONS = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        folder TEXT NOT NULL UNIQUE,
        registered_at REAL NOT NULL,
        inode INTEGER NOT NULL DEFAULT 0,
        offset INTEGER NOT NULL DEFAULT 0,
        summary TEXT NOT NULL DEFAULT ''
    );
    CREATE TABLE tags (run_id TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (run_id, tag));
    CREATE TABLE notes (run_id TEXT PRIMARY KEY, note TEXT NOT NULL);
    CREATE TABLE queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id TEXT NOT NULL,
        name TEXT NOT NULL,
        folder TEXT NOT NULL,
        settings TEXT NOT NULL,
        fresh INTEGER NOT NULL DEFAULT 0,
        position REAL NOT NULL,
        state TEXT NOT NULL DEFAULT 'waiting',
        attempts INTEGER NOT NULL DEFAULT 0,
        pid INTEGER NOT NULL DEFAULT 0,
        mark TEXT NOT NULL DEFAULT '',
        added_at REAL NOT NULL,
        started_at REAL,
        ended_at REAL,
        error TEXT NOT NULL DEFAULT ''
    );
    CREATE UNIQUE INDEX queue_open ON queue (run_id) WHERE state IN ('waiting', 'running');
    """,
)
_KEPT = {
    "runs": ("id", "name", "folder", "registered_at"),
    "tags": ("run_id", "tag"),
    "notes": ("run_id", "note"),
    "queue": (
        "id",
        "run_id",
        "name",
        "folder",
        "settings",
        "fresh",
        "position",
        "state",
        "attempts",
        "pid",
        "mark",
        "added_at",
        "started_at",
        "ended_at",
        "error",
    ),
}


class Database:
    """A connection to the index.

    Attributes:
        problems: what a reader should be told: it was damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Text] = []
        self.connection = self._open()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def work_in_memory(self) -> None:
        """Go on with a copy in memory: the file can still be read, but no longer written."""
        memory = connect(":memory:")
        with suppress(sqlite3.Error):
            self.connection.backup(memory)
        self.close()
        migrate(memory, self.path)
        self.connection = memory

    def _open(self) -> sqlite3.Connection:
        """The file's connection; one in memory when the disk is full or must not be written."""
        try:
            with locked(self.path):
                return self._open_alone()
        except (SlipwayError, sqlite3.OperationalError) as error:
            if isinstance(error, SlipwayError) and error.code == "runs.newer_index":
                raise
            self.problems.append(
                tr(
                    "the index of runs {path} cannot be written ({reason}): tags, notes and the "
                    "queue are not shown",
                    path=str(self.path),
                    reason=error.message_en if isinstance(error, SlipwayError) else str(error),
                )
            )
            memory = connect(":memory:")
            migrate(memory, self.path)
            return memory

    def _open_alone(self) -> sqlite3.Connection:
        connection = connect(self.path)
        try:
            if is_whole(connection):
                migrate(connection, self.path)
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()
        aside = _set_aside(self.path)
        self.problems.append(
            tr(
                "the index of runs was damaged and is made anew from the run folders; "
                "the old one is {path}",
                path=str(aside),
            )
        )
        connection = connect(self.path)
        migrate(connection, self.path)
        _take_over(aside, connection)
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; nothing of it stays when the block fails.

        Raises:
            ResourceError: the disk is full.
            ConflictError: another process holds the index for too long, or it is read-only.
        """
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise _as_known(error, self.path) from error


def connect(path: Path | str) -> sqlite3.Connection:
    """A connection in WAL mode that begins its transactions by hand."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    return connection


def is_whole(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong with the file; sets WAL mode."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the newest version.

    Raises:
        ConflictError: a newer Slipway made them.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise ConflictError(
            "runs.newer_index",
            tr("the index of runs {path} was made by a newer Slipway", path=str(path)),
            tr("update with `pip install -U slipway`"),
        )
    for number in range(version, len(MIGRATIONS)):
        steps = MIGRATIONS[number]
        connection.executescript(f"BEGIN; {steps}; PRAGMA user_version = {number + 1}; COMMIT;")


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    return aside


def _take_over(old: Path, connection: sqlite3.Connection) -> None:
    """Copy what only the index knows, row by row, as far as the old file can be read."""
    with suppress(sqlite3.Error), closing(connect(old)) as source:
        for table, columns in _KEPT.items():
            names = ", ".join(columns)
            marks = ", ".join("?" * len(columns))
            with suppress(sqlite3.Error):
                for row in source.execute(f"SELECT {names} FROM {table}"):
                    with suppress(sqlite3.Error):
                        connection.execute(
                            f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(row)
                        )


def _as_known(error: sqlite3.OperationalError, path: Path) -> SlipwayError:
    if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        import errno

        return from_os_error(OSError(errno.ENOSPC, "full"), path)
    if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
        return ConflictError(
            "runs.index_busy",
            tr("another process holds the index of runs {path}", path=str(path)),
            tr("run the command again in a moment"),
        )
    return ResourceError(
        "runs.index_unusable",
        tr("the index of runs {path} cannot be used: {reason}", path=str(path), reason=str(error)),
        tr("check the owner with `ls -ld {path}`", path=str(path)),
    )
