"""The gateway's SQLite file: opened, migrated, and used by several processes at once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from slipway.core.errors import ConflictError, InputError, SlipwayError, from_os_error
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.gateway.tables import SCHEMA_HEAD

BUSY_TIMEOUT_MS = 5000
_BEGIN = "slipway_begin"


class Store:
    """An open gateway database. Use `open_store`; every function of the layer takes one.

    Safe to share between threads; each block below is one transaction.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine

    @property
    def key_file(self) -> Path:
        """The key that seals the channels' own keys; see `slipway.gateway.seal`."""
        return self.path.with_name("seal.key")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the database; it never waits for writers."""
        with _explain(self.path), self._engine.connect() as connection:
            connection = connection.execution_options(**{_BEGIN: "BEGIN"})
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, *, catalogue: bool = True) -> Iterator[Connection]:
        """A write transaction, alone in the database from its first statement on.

        Args:
            catalogue: it may change users, tokens, channels or prices, of which running gateways
                keep copies; they read them again at their next request.
        """
        with _explain(self.path), self._engine.begin() as connection:
            yield connection
            if catalogue:
                connection.exec_driver_sql("UPDATE revision SET value = value + 1")

    def explain(self) -> AbstractContextManager[None]:
        """A block in which the database's own failures become errors that say what to do."""
        return _explain(self.path)

    @property
    def checkpoints(self) -> bool:
        """Whether somebody must call `checkpoint` beside a hot connection."""
        return True

    def hot_connection(self) -> HotConnection:
        """A connection of its own for one thread that writes all the time."""
        raw = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        _configure(raw, None)
        # a checkpoint inside of a commit is its longest part by far: `checkpoint` does it instead
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        return HotConnection(raw)

    def checkpoint(self, *, empty: bool = False) -> None:
        """Move what was written lately from the write-ahead log into the file.

        Args:
            empty: also cut the log to nothing, for which writers may have to wait; else nobody
                waits.
        """
        mode = "TRUNCATE" if empty else "PASSIVE"
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path)) as raw:
            raw.execute(f"PRAGMA wal_checkpoint({mode})")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class HotConnection:
    """SQLite without anything between: transactions by hand, statements prepared once."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self.execute = raw.execute

    def begin(self) -> None:
        """Begin a write transaction, alone in the database."""
        self._raw.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it last."""
        self._raw.execute("COMMIT")

    def rollback(self) -> None:
        """Undo it, if there is one."""
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()


def open_store(path: Path | None = None) -> Store:
    """Open the gateway database, making and migrating it where needed.

    Two processes may do this at the same time; one of them migrates and the other waits.

    Args:
        path: the file; by default `gateway/gateway.db` below SLIPWAY_HOME.

    Raises:
        InputError: the file is no gateway database, or is newer than this program.
        SlipwayError: the folder is not writable, or another process holds the file too long.
    """
    path = path or Home.current().gateway_db
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its -wal and -shm files the mode of the database, so it is made first
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise from_os_error(error, path) from error
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    store = Store(path, engine)
    try:
        with _explain(path):
            _enable_wal(engine)
        _migrate(store)
    except BaseException:
        store.close()
        raise
    return store


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin` alone
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    # with WAL a killed process loses nothing; a power cut may lose the newest whole transactions
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin(connection: Connection) -> None:
    # a reader that turns into a writer can fail with "locked" at once, so writers say so first
    statement = connection.get_execution_options().get(_BEGIN, "BEGIN IMMEDIATE")
    connection.exec_driver_sql(statement)


def _enable_wal(engine: Engine) -> None:
    """Switch to the write-ahead log; the switch ignores the busy timeout, so it is tried again."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    finally:
        raw.close()


def _migrate(store: Store) -> None:
    if _revision(store) == SCHEMA_HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "slipway.gateway:migrations")
    config.set_main_option("path_separator", "os")
    with store.write(catalogue=False) as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise InputError(
                "gateway.database_version",
                tr("{path} was made by another version of Slipway", path=str(store.path)),
                tr("update Slipway, or set SLIPWAY_HOME to another folder"),
            ) from error


def _revision(store: Store) -> str | None:
    with store.read() as connection:
        named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
        if connection.exec_driver_sql(named).first() is None:
            return None
        row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return str(row[0]) if row else None


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turn SQLite's own failures into errors that say what to do."""
    try:
        yield
    except OperationalError as error:
        raise _known(error.orig, path) or error from error
    except sqlite3.OperationalError as error:
        raise _known(error, path) or error from error
    except Exception as error:
        original = getattr(error, "orig", error)
        if type(original) is sqlite3.DatabaseError:  # "file is not a database", "malformed"
            raise InputError(
                "gateway.database_broken",
                tr("{path} is not a usable database: {reason}", path=str(path), reason=original),
                tr("restore it from a backup, or move it away to begin with an empty one"),
            ) from error
        raise


def _known(error: Any, path: Path) -> SlipwayError | None:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ConflictError(
            "gateway.database_busy",
            tr("another process holds {path} for too long", path=str(path)),
            tr("see who uses it with `fuser -v {path}`, then try again", path=str(path)),
        )
    if name.startswith("SQLITE_FULL"):
        return from_os_error(OSError(28, "disk full"), path)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return from_os_error(PermissionError(13, "not writable"), path)
    return None
