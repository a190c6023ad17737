from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.core import owner
from slipway.core.owner import lives, owned, owner_of, process_mark


def test_a_holder_is_named_while_it_holds_and_not_after(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / ".lock"
    assert owner_of(lock) is None
    with owned(lock) as mine:
        assert mine
        assert owner_of(lock) == os.getpid()
        with owned(lock) as second:
            assert not second
        assert owner_of(lock) == os.getpid()
    assert owner_of(lock) is None


def test_a_killed_holder_no_longer_counts(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from slipway.core.owner import owned\n"
        "with owned(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert owner_of(lock) == child.pid
        child.kill()
    assert lock.read_text() != ""
    assert owner_of(lock) is None
    with owned(lock) as mine:
        assert mine


def test_another_process_with_the_same_id_is_not_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "mark": "another-boot:1"}))
    assert owner_of(lock) is None
    assert not lives(os.getpid(), "")
    lock.write_text("{torn")
    assert owner_of(lock) is None


def test_a_jump_of_the_clock_does_not_change_a_process_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = process_mark(os.getpid())
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert lives(os.getpid(), before)
    assert ":" in before  # boot and ticks, no wall clock


def test_where_there_is_no_proc_the_start_time_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(owner, "_BOOT_ID", tmp_path / "none")
    mark = process_mark(os.getpid())
    assert mark.isdigit()
    assert lives(os.getpid(), mark)
    assert process_mark(2**22 + 1) == ""
