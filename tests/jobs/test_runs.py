from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from tests.jobs.runs_for_tests import add_step, end, hold, make_run

from slipway.core.errors import ConflictError, NotFoundError, ResourceError, UsageError
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.jobs import Queue, Run, Runs, RunSummary, ask_to_stop, compare
from slipway.jobs.database import MIGRATIONS, connect
from slipway.jobs.details import details
from slipway.jobs.run_folder import remember


def test_runs_that_nobody_registered_are_found_with_state_and_numbers(home: Home) -> None:
    make_run(home, "a", end="finished")
    make_run(home, "b", end="stopped")
    make_run(home, "c")
    make_run(home, "d", end="failed")
    (home.runs / "not-a-run").mkdir()
    with Runs(home) as runs:
        states = {run.name: run.state for run in runs.all()}
        assert states == {"a": "finished", "b": "stopped", "c": "interrupted", "d": "failed"}
        run = runs.find("a")
        assert (run.summary.step, run.summary.total_steps) == (3, 10)
        assert (run.summary.base_eval_loss, run.summary.eval_loss) == (4.0, 2.0)
        assert (run.summary.best_eval_loss, run.summary.best_step) == (2.0, 3)
        error = runs.find("d").summary.error
        assert error is not None
        assert error["hint"] == "free some"
        assert [r.name for r in runs.all(states=["stopped", "failed"])] == ["d", "b"]


def test_a_growing_file_is_read_on_and_a_new_one_from_its_start(home: Home) -> None:
    folder = make_run(home, "a")
    with Runs(home) as runs:
        assert runs.find("a").summary.step == 3
        log = EventLog(folder / "events.jsonl")
        add_step(log, 4)
        with (folder / "events.jsonl").open("a") as file:
            file.write('{"type": "metric", "kind": "train", "st')
        assert runs.find("a").summary.step == 4
        row = runs.database.connection.execute("SELECT offset FROM runs").fetchone()
        assert 0 < row["offset"] < (folder / "events.jsonl").stat().st_size
        (folder / "events.jsonl").unlink()
        add_step(EventLog(folder / "events.jsonl"), 1)
        assert runs.find("a").summary.step == 1
    with Runs(home) as runs:
        assert runs.find("a").summary.step == 1


def test_a_run_is_running_exactly_while_its_process_lives(home: Home) -> None:
    folder = make_run(home, "a")
    child = hold(folder)
    try:
        with Runs(home) as runs:
            run = runs.find("a")
            assert (run.state, run.pid) == ("running", child.pid)
            with pytest.raises(ConflictError, match="running"):
                runs.remove(run)
    finally:
        end(child)
    with Runs(home) as runs:
        assert runs.find("a").state == "interrupted"


def test_a_lost_index_comes_back_with_runs_elsewhere(home: Home, tmp_path: Path) -> None:
    make_run(home, "here", tags=["good"])
    there = make_run(Home(tmp_path / "other"), "there")
    with Runs(home) as runs:
        runs.register(there)
        before = {(run.id, run.name, run.state) for run in runs.all()}
        assert len(before) == 2
    for path in home.root.glob("runs.db*"):
        path.unlink()
    with Runs(home) as runs:
        assert {(run.id, run.name, run.state) for run in runs.all()} == before
        assert runs.find("here").tags == ("good",)


@pytest.mark.parametrize("harm", ["header", "middle", "empty-pages"])
def test_a_damaged_index_is_set_aside_and_made_anew(home: Home, harm: str) -> None:
    for number in range(60):
        make_run(home, f"run-{number:02}")
    with Runs(home) as runs:
        runs.tag(runs.find("run-07"), ["keep"])
        runs.note(runs.find("run-07"), "the good one")
        runs.database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = bytearray(home.runs_db.read_bytes())
    if harm == "header":
        raw[:32] = b"not a database, not at all......"
    elif harm == "middle":
        raw[4096 * 9 : 4096 * 12] = os.urandom(4096 * 3)
    else:
        raw[4096 * 6 :] = bytes(len(raw) - 4096 * 6)
    home.runs_db.write_bytes(raw)
    with Runs(home) as runs:
        assert len(runs.all()) == 60
        assert "damaged" in runs.problems[0].en
        assert (home.root / "runs.db.damaged-1").is_file()
        runs.tag(runs.find("run-08"), ["new"])
    with Runs(home) as runs:
        assert not runs.problems
        assert runs.find("run-08").tags == ("new",)


def test_what_only_the_index_knows_is_taken_over_from_a_damaged_one(home: Home) -> None:
    for number in range(200):
        make_run(home, f"run-{number:03}")
    with Runs(home) as runs:
        runs.all()
        runs.note(runs.find("run-007"), "the good one")
        connection = runs.database.connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_runs_2'"
        ).fetchone()[0]
    raw = bytearray(home.runs_db.read_bytes())
    raw[4096 * (page - 1) + 8 : 4096 * page] = os.urandom(4088)
    home.runs_db.write_bytes(raw)
    with Runs(home) as runs:
        assert runs.problems
        assert runs.find("run-007").note == "the good one"


def test_a_full_disk_costs_tags_but_not_the_list(home: Home) -> None:
    make_run(home, "a")
    with Runs(home) as runs:
        runs.all()
    for number in range(80):
        make_run(home, f"b-{number}", note="x" * 100)
    with Runs(home) as runs:
        connection = runs.database.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(ResourceError) as caught:
            runs.note(_stranger(), "n" * 100_000)
        assert caught.value.code == "disk.full"
        assert len(runs.all()) == 81
        assert runs.problems


def _stranger() -> Run:
    return Run("00000000", "x", Path("/x"), "missing", RunSummary())


def test_an_index_that_cannot_be_written_is_no_hindrance_to_reading(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(home, "a")

    def refuse(path: object) -> sqlite3.Connection:
        if str(path) != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(":memory:")

    monkeypatch.setattr("slipway.jobs.database.connect", refuse)
    with Runs(home) as runs:
        assert [run.name for run in runs.all()] == ["a"]
        assert "unable to open" in str(runs.problems[0])


def test_an_index_of_a_newer_version_is_left_alone(home: Home) -> None:
    with Runs(home) as runs:
        runs.database.connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(ConflictError, match="newer"):
        Runs(home)
    assert not list(home.root.glob("*.damaged*"))


def test_names_are_found_by_unique_beginnings_ids_and_folders(home: Home) -> None:
    folder = make_run(home, "shop-1")
    make_run(home, "shop-12")
    with Runs(home) as runs:
        assert runs.find("shop-1").name == "shop-1"
        assert runs.find("shop-12").name == "shop-12"
        assert runs.find(str(folder)).name == "shop-1"
        assert runs.find(runs.find("shop-1").id[:5]).name == "shop-1"
        with pytest.raises(ConflictError, match="2 runs") as many:
            runs.find("sho")
        assert "shop-12" in many.value.hint_en
        with pytest.raises(NotFoundError) as none:
            runs.find("shap-1")
        assert "shop-1" in none.value.hint_en


def test_a_folder_removed_by_hand_is_missing_and_keeps_its_last_numbers(home: Home) -> None:
    folder = make_run(home, "a")
    with Runs(home) as runs:
        runs.note(runs.find("a"), "why")
        shutil.rmtree(folder)
        run = runs.find("a")
        assert (run.state, run.note, run.summary.step) == ("missing", "why", 3)
        runs.remove(run)
        assert runs.all() == []


def test_rm_removes_the_folder_and_refuses_what_has_heirs(home: Home) -> None:
    folder = make_run(home, "a", end="finished")
    digest = read_manifest(folder).digest
    merged = home.artefacts / "merged-a"
    merged.mkdir(parents=True)
    (merged / "file").write_text("x")
    write_manifest(merged, "merged", "m", parents={"run": digest})
    make_run(home, "b", adapter=str(folder / "adapter"))
    with Runs(home) as runs:
        run = runs.find("a")
        assert {heir.kind for heir in runs.heirs(run)} == {"merged", "run"}
        with pytest.raises(ConflictError, match="2 things") as caught:
            runs.remove(run)
        assert "--force" in caught.value.hint_en
        assert folder.is_dir()
        runs.remove(run, force=True)
        assert not folder.exists()
        assert [run.name for run in runs.all()] == ["b"]


def test_rm_of_a_run_elsewhere_spares_what_it_did_not_make(home: Home, tmp_path: Path) -> None:
    folder = make_run(Home(tmp_path / "mine"), "a", end="finished")
    (folder / "thesis.txt").write_text("years of work")
    with Runs(home) as runs:
        runs.register(folder)
        runs.remove(runs.find("a"))
        assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
        assert runs.all() == []


def test_tags_and_notes_stay_and_filter(home: Home) -> None:
    make_run(home, "a")
    make_run(home, "b")
    with Runs(home) as runs:
        runs.tag(runs.find("a"), ["zh", "best"])
        runs.tag(runs.find("b"), ["zh"])
        runs.tag(runs.find("a"), [], ["best"])
        runs.tag(runs.find("a"), ["best"])
    with Runs(home) as runs:
        assert [run.name for run in runs.all(tags=["zh", "best"])] == ["a"]
        runs.note(runs.find("b"), "x")
        runs.note(runs.find("b"), "")
        assert runs.find("b").note == ""


def test_many_processes_write_at_once(home: Home) -> None:
    make_run(home, "a")
    errors: list[BaseException] = []

    def tag(number: int) -> None:
        try:
            with Runs(home) as runs:
                runs.tag(runs.find("a"), [f"t{number}"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=tag, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with Runs(home) as runs:
        assert len(runs.find("a").tags) == 8


def test_stop_tells_the_process_and_waits_for_it(home: Home) -> None:
    folder = make_run(home, "a")
    child = hold(folder)
    try:
        with Runs(home) as runs:
            run = runs.find("a")
            assert not ask_to_stop(runs, run, timeout_s=0.2)
            assert (folder / "stop").read_text() == f"now {child.pid}"
            threading.Timer(0.3, child.kill).start()
            assert ask_to_stop(runs, run, keep=True, timeout_s=20)
            assert (folder / "stop").read_text() == f"keep {child.pid}"
            with pytest.raises(ConflictError, match="interrupted"):
                ask_to_stop(runs, runs.find("a"))
    finally:
        end(child)


def test_compare_shows_what_differs_and_by_how_much(home: Home) -> None:
    make_run(home, "a", end="finished", lora={"rank": 8})
    make_run(home, "b", steps=5, lora={"rank": 16}, label="another name")
    with Runs(home) as runs:
        first, second = runs.find("a"), runs.find("b")
    result = compare([first, second])
    assert result.settings == {"lora.rank": [8, 16]}
    assert result.metrics["eval_loss"] == [2.0, 4.0]
    assert result.change["eval_loss"] == [0.0, 1.0]
    assert result.against_base == [-0.5, 0.0]
    assert result.metrics["steps"] == [3, 5]
    with pytest.raises(UsageError):
        compare([first, first])


def test_details_of_a_run_that_is_not_finished(home: Home) -> None:
    folder = make_run(home, "a")
    log = EventLog(folder / "events.jsonl")
    for step in (2, 3):
        log.emit("sample", step=step, prompt="hello?", answer=f"at {step}")
    (folder / "checkpoints" / "step-0000003").mkdir(parents=True)
    (folder / "checkpoints" / "step-0000003" / "state.pt").write_bytes(b"x" * 10)
    with Runs(home) as runs:
        found = details(runs, runs.find("a"))
    assert found.settings["learning_rate"].origin == "flag"
    assert found.settings["lora.rank"].value == 8
    assert [(s["step"], s["answer"]) for s in found.samples] == [(3, "at 3")]
    assert [(c.step, c.size) for c in found.checkpoints] == [(3, 10)]
    assert found.lineage == {"base": "/m", "dataset": "/d"}


def test_a_clock_that_jumped_back_changes_no_state(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(home, "a")
    monkeypatch.setattr("time.time", lambda: 1e6)
    add_step(EventLog(folder / "events.jsonl"), 4)
    child = hold(folder)
    try:
        with Runs(home) as runs:
            run = runs.find("a")
            assert (run.state, run.summary.step) == ("running", 4)
            Queue(runs).add(home.runs / "later", {})
            monkeypatch.setattr("time.time", lambda: 4e9)
            Queue(runs).add(home.runs / "latest", {})
            assert [item.name for item in Queue(runs).items()] == ["later", "latest"]
    finally:
        end(child)


def test_a_folder_elsewhere_is_remembered_once(home: Home, tmp_path: Path) -> None:
    for _ in range(3):
        remember(home, tmp_path / "x")
    assert (home.runs / ".elsewhere").read_text().splitlines() == [str(tmp_path / "x")]
