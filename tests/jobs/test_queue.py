from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from tests.jobs.runs_for_tests import end, hold, make_run

from slipway.core.errors import ConflictError, NotFoundError, ResourceError
from slipway.core.events import EventLog
from slipway.core.owner import process_mark
from slipway.core.paths import Home
from slipway.jobs import Queue, QueueItem, Run, Runs, ask_to_stop, queue_again
from slipway.jobs.queue import worker_lock
from slipway.jobs.queue_worker import MAX_ATTEMPTS, outcome, work
from slipway.jobs.summary import RunSummary

# a trainer in short: holds the lock, says what a trainer says, and ends as it is told
TRAIN = """
import sys, time
from pathlib import Path
from slipway.core.events import EventLog
from slipway.core.manifest import write_manifest
from slipway.core.owner import owned
folder, how, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
with owned(folder / ".lock") as mine:
    if not mine:
        sys.exit("busy")
    log = EventLog(folder / "events.jsonl")
    log.emit("state", state="started", step=0)
    time.sleep(seconds)
    if how == "fails":
        log.emit("state", state="failed", code="disk.full", message="no space", hint="")
        sys.exit(1)
    if how == "dies":
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "weights").write_text("w")
    write_manifest(folder, "run", folder.name, files=["weights"])
    log.emit("state", state="finished", step=1)
"""

Say = Callable[[str], None]


def command(
    how: dict[str, str] | None = None, seconds: float = 0.0
) -> Callable[..., Sequence[str]]:
    def of(item: QueueItem) -> Sequence[str]:
        name = (how or {}).get(item.name, "finishes")
        return [sys.executable, "-c", TRAIN, str(item.folder), name, str(seconds)]

    return of


def fill(home: Home, *names: str) -> None:
    with Runs(home) as runs:
        for name in names:
            Queue(runs).add(home.runs / name, {"spec": {}})


def states(home: Home) -> dict[str, str]:
    with Runs(home) as runs:
        return {item.name: item.state for item in Queue(runs).items()}


def test_runs_are_trained_in_order_and_a_failure_does_not_stop_the_next(home: Home) -> None:
    fill(home, "a", "b", "c")
    said: list[str] = []
    assert work(home, say=said.append, command=command({"b": "fails"}), poll_s=0.02)
    assert states(home) == {"a": "done", "b": "failed", "c": "done"}
    with Runs(home) as runs:
        items = {item.name: item for item in Queue(runs).items()}
        assert items["b"].error == "disk.full: no space"
        ends = [items[name].ended_at or 0.0 for name in ("a", "b", "c")]
        starts = [items[name].started_at or 0.0 for name in ("a", "b", "c")]
    assert ends[0] <= starts[1] and ends[1] <= starts[2]  # one at a time


def test_a_run_whose_process_dies_is_taken_up_again_but_not_for_ever(home: Home) -> None:
    fill(home, "a", "b")
    assert work(home, say=lambda _: None, command=command({"a": "dies"}), poll_s=0.02)
    assert states(home) == {"a": "failed", "b": "done"}
    with Runs(home) as runs:
        (item,) = [item for item in Queue(runs).items() if item.name == "a"]
    assert item.attempts == MAX_ATTEMPTS
    assert f"{MAX_ATTEMPTS} times" in item.error


def test_the_order_can_be_changed_and_runs_be_taken_out(home: Home) -> None:
    fill(home, "a", "b", "c", "d")
    with Runs(home) as runs:
        queue = Queue(runs)
        queue.move(runs.find("d"), 1)
        queue.move(runs.find("a"), 99)
        assert [item.name for item in queue.items()] == ["d", "b", "c", "a"]
        assert [runs.find(name).place for name in "dbca"] == [1, 2, 3, 4]
        queue.take_out(runs.find("b"))
        assert [item.name for item in queue.items()] == ["d", "c", "a"]
        with pytest.raises(NotFoundError):
            runs.find("b")
        assert ask_to_stop(runs, runs.find("c"))
        assert [item.name for item in queue.items()] == ["d", "a"]
        with pytest.raises(ConflictError, match="already"):
            queue.add(home.runs / "a", {})
        queue.add(home.runs / "e", {})
        assert [item.name for item in queue.items()] == ["d", "a", "e"]


def test_what_is_queued_keeps_its_values_and_its_tags(home: Home) -> None:
    with Runs(home) as runs:
        settings = {"spec": {"learning_rate": 0.1}, "origins": {}, "recipe": "/r.yaml"}
        item = Queue(runs).add(home.runs / "a", settings, fresh=True, tags=["night"])
        assert (item.settings, item.fresh, item.state) == (settings, True, "waiting")
        run = runs.find("a")
        assert (run.state, run.tags) == ("queued", ("night",))


def test_a_stopped_run_is_queued_again_with_the_values_it_was_started_with(home: Home) -> None:
    make_run(home, "a", end="stopped", learning_rate=0.5)
    make_run(home, "b", end="finished")
    with Runs(home) as runs:
        item = queue_again(runs, runs.find("a"))
        assert item.settings["spec"]["learning_rate"] == 0.5
        assert runs.find("a").state == "queued"
        with pytest.raises(ConflictError):
            queue_again(runs, runs.find("b"))


def test_of_two_workers_that_race_one_stays(home: Home) -> None:
    fill(home, *[f"r{n}" for n in range(6)])
    results: list[bool] = []
    said: list[str] = []

    def worker() -> None:
        results.append(work(home, say=said.append, command=command(), poll_s=0.02))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    assert sum(line.startswith("started") for line in said) == 6
    assert set(states(home).values()) == {"done"}


def test_the_queue_waits_for_a_run_that_somebody_else_started(home: Home) -> None:
    other = make_run(home, "other")
    child = hold(other)
    fill(home, "a")
    said: list[str] = []
    thread = threading.Thread(
        target=work, args=(home,), kwargs={"say": said.append, "command": command(), "poll_s": 0.02}
    )
    try:
        thread.start()
        wait_until(lambda: any("waits until other" in line for line in said))
        time.sleep(0.3)
        assert states(home) == {"a": "waiting"}
    finally:
        end(child)
    thread.join(20)
    assert states(home) == {"a": "done"}


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


WORKER = """
import sys
from slipway.core.paths import Home
from slipway.jobs.queue_worker import work
train = open(sys.argv[1]).read()
work(Home.current(), say=print, poll_s=0.05,
     command=lambda item: [sys.executable, "-c", train, str(item.folder), "finishes", "2.0"])
"""


@pytest.fixture
def worker(home: Home, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    started: list[subprocess.Popen[bytes]] = []

    def launch() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(script)], stdout=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_worker_leaves_its_run_alone_and_the_next_adopts_it(
    home: Home, worker: Callable[[], subprocess.Popen[bytes]]
) -> None:
    fill(home, "a", "b")
    first = worker()
    wait_until(lambda: (home.runs / "a" / "events.jsonl").is_file())
    with Runs(home) as runs:
        pid = Queue(runs).items()[0].pid
        assert Queue(runs).worker() == first.pid
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Runs(home) as runs:
        assert Queue(runs).worker() is None
        assert runs.find("a").state == "running"
    assert psutil.pid_exists(pid)
    said: list[str] = []
    assert work(home, say=said.append, command=command(), poll_s=0.02)
    assert any(line.startswith("adopted a") for line in said)
    assert states(home) == {"a": "done", "b": "done"}
    with Runs(home) as runs:
        assert [item.attempts for item in Queue(runs).items()] == [1, 1]
    starts = [
        e for e in (home.runs / "a" / "events.jsonl").read_text().splitlines() if "started" in e
    ]
    assert len(starts) == 1


def test_a_run_killed_together_with_its_worker_is_taken_up_by_the_next(home: Home) -> None:
    fill(home, "a")
    make_run(home, "a")
    with Runs(home) as runs, runs.database.write() as connection:
        connection.execute(
            "UPDATE queue SET state = 'running', attempts = 1, pid = ?, mark = ?",
            (os.getpid(), "a machine that was switched off:1"),
        )
    assert work(home, say=lambda _: None, command=command(), poll_s=0.02)
    assert states(home) == {"a": "done"}
    with Runs(home) as runs:
        assert Queue(runs).items()[0].attempts == 2


def test_a_worker_killed_between_start_and_writing_it_down_starts_no_second_trainer(
    home: Home,
) -> None:
    fill(home, "a")
    folder = home.runs / "a"
    with Runs(home) as runs, runs.database.write() as connection:
        connection.execute("UPDATE queue SET state = 'running', attempts = 1")
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(folder), "finishes", "1"], stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: (folder / "events.jsonl").is_file())
        said: list[str] = []
        assert work(home, say=said.append, command=command(), poll_s=0.02)
    finally:
        trainer.wait()
    assert said[0].startswith("adopted a")
    assert states(home) == {"a": "done"}


def test_a_full_disk_queues_nothing_and_says_so(home: Home) -> None:
    fill(home, "a")
    with Runs(home) as runs:
        connection = runs.database.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(ResourceError):
            Queue(runs).add(home.runs / "b", {"spec": {"text": "x" * 200_000}})
        assert [item.name for item in Queue(runs).items()] == ["a"]


def test_what_was_added_while_a_worker_went_to_sleep_is_not_forgotten(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last look finds nothing, then a run is added, whose adder still sees a worker."""
    import slipway.jobs.queue_worker as module

    fill(home, "a")
    original = module._next
    late: list[str] = []

    def next_item(*arguments: object) -> bool:
        more = bool(original(*arguments))  # type: ignore[arg-type]
        if not more and not late:
            late.append("b")
            fill(home, "b")
            with Runs(home) as runs:
                assert Queue(runs).worker() == os.getpid()
        return more

    monkeypatch.setattr(module, "_next", next_item)
    assert work(home, say=lambda _: None, command=command(), poll_s=0.02)
    assert states(home) == {"a": "done", "b": "done"}


def a_run(state: str, **summary: object) -> Run:
    values = RunSummary(**summary)  # type: ignore[arg-type]
    return Run("1", "a", Path("/a"), state, values)  # type: ignore[arg-type]


def test_how_an_item_ends_follows_from_its_folder_and_its_program() -> None:
    error = {"code": "x.y", "message": "bad", "hint": ""}
    assert outcome(a_run("finished"), 1, 0) == ("done", "")
    assert outcome(a_run("stopped"), 1, 130) == ("stopped", "")
    assert outcome(a_run("failed", error=error), 1, 1) == ("failed", "x.y: bad")
    assert outcome(a_run("failed", error=error), 1, -9)[0] == "waiting"  # an older failure's words
    assert outcome(a_run("interrupted"), 1, 130) == ("waiting", "")  # the machine shuts down
    assert outcome(a_run("interrupted"), 1, None) == ("waiting", "")
    assert outcome(a_run("interrupted"), MAX_ATTEMPTS, -9)[0] == "failed"
    assert outcome(a_run("interrupted"), 1, 5, "error: no model") == (
        "failed",
        "exit 5: error: no model",
    )
    assert outcome(a_run("missing"), 1, 5, "error: x")[0] == "failed"
    assert outcome(None, 1, None)[0] == "failed"


def test_start_worker_starts_one_and_finds_it_there(home: Home) -> None:
    with Runs(home) as runs:
        queue = Queue(runs)
        assert queue.start_worker()  # nothing waits: it ends at once
        wait_until(lambda: queue.worker() is None)
        with closing((home.root / "queue.lock").open("a")):
            assert worker_lock(home).is_file()
    assert process_mark(os.getpid())
    assert EventLog(None).path is None


def test_a_run_that_the_queue_has_started_is_running_while_it_loads(home: Home) -> None:
    fill(home, "a")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        with Runs(home) as runs:
            with runs.database.write() as connection:
                connection.execute(
                    "UPDATE queue SET state = 'running', pid = ?, mark = ?",
                    (child.pid, process_mark(child.pid)),
                )
            run = runs.find("a")
            assert (run.state, run.pid) == ("running", child.pid)
            assert not ask_to_stop(runs, run, timeout_s=0.2)
            assert (home.runs / "a" / "stop").read_text() == f"now {child.pid}"
    finally:
        child.kill()
        child.wait()
    with Runs(home) as runs:
        assert runs.find("a").state == "missing"
