from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.core.errors import InputError
from slipway.core.paths import Home
from slipway.gateway import Store, list_users, open_store
from slipway.gateway.tables import SCHEMA_HEAD, metadata


def test_database_and_folder_are_the_owners_alone(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    for beside in store.path.parent.glob("gateway.db-*"):
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600


def test_schema_head_is_the_newest_migration_and_gives_the_declared_tables(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "slipway.gateway:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_HEAD
    with store.read() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_processes_may_open_a_new_database_at_once(home: Home) -> None:
    code = (
        "from slipway.gateway import open_store, add_user; import sys; "
        "add_user(open_store(), sys.argv[1])"
    )
    names = ["a", "b", "c"]
    running = [subprocess.Popen([sys.executable, "-c", code, name]) for name in names]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    store = open_store()
    assert [user.name for user in list_users(store)] == names
    store.close()


def test_a_second_open_does_not_load_alembic(store: Store) -> None:
    code = (
        "import sys; from slipway.gateway import open_store; open_store(); "
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(b"this is not SQLite" * 100)
    with pytest.raises(InputError, match=r"database_broken.*gateway\.db"):
        open_store(path)
    assert path.read_bytes().startswith(b"this is not")


def test_a_database_of_a_newer_version_is_left_alone(store: Store) -> None:
    with store.write() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InputError, match="database_version"):
        open_store(store.path)


def test_a_failed_block_changes_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.write() as db:
        db.exec_driver_sql(
            "INSERT INTO users (name, role, enabled, created_at) VALUES ('x', 'user', 1, 0)"
        )
        raise RuntimeError
    assert list_users(store) == []
