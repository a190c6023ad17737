from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.core import files
from slipway.core.errors import ResourceError, UsageError


def test_write_json_round_trips_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    files.write_json(path, {"名": [1, 2.5, None]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"名": [1, 2.5, None]}
    assert "名" in text and text.endswith("}\n")


def test_secret_files_get_the_asked_mode(tmp_path: Path) -> None:
    files.write_text(tmp_path / "key", "x", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        files.write_text(path, "new")
    assert caught.value.code == "disk.full"
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_new_folder_appears_only_when_complete(tmp_path: Path) -> None:
    final = tmp_path / "artefact"
    with files.new_folder(final) as build:
        (build / "a").write_text("a")
        assert not final.exists()
    assert (final / "a").read_text() == "a"


def test_new_folder_keeps_the_old_one_when_the_work_fails(tmp_path: Path) -> None:
    final = tmp_path / "artefact"
    with files.new_folder(final) as build:
        (build / "a").write_text("first")
    with pytest.raises(ValueError, match="stop"), files.new_folder(final) as build:
        (build / "a").write_text("second")
        raise ValueError("stop")
    assert (final / "a").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_new_folder_replaces_an_older_one(tmp_path: Path) -> None:
    final = tmp_path / "artefact"
    for text in ("first", "second"):
        with files.new_folder(final) as build:
            (build / "a").write_text(text)
    assert (final / "a").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["artefact"]


def test_new_folder_removes_what_a_killed_build_left(tmp_path: Path) -> None:
    dead = tmp_path / ".artefact.4194304.abc"  # above the kernel's highest process id
    dead.mkdir()
    with files.new_folder(tmp_path / "artefact"):
        assert not dead.exists()


def test_full_disk_inside_new_folder_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), files.new_folder(tmp_path / "artefact"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_missing_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", denied)
    with pytest.raises(UsageError) as caught:
        files.write_text(tmp_path / "a", "x")
    assert caught.value.code == "file.permission"


def test_file_digest_is_sha256_and_reports_its_progress(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 700_000)
    seen: list[int] = []
    import hashlib

    assert files.sha256_file(path, seen.append) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sum(seen) == path.stat().st_size and len(seen) > 1


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_json_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    turned = dict(reversed(list(value.items())))
    assert files.sha256_json(value) == files.sha256_json(turned)
