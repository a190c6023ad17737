from __future__ import annotations

from tests.jobs.runs_for_tests import add_step, make_run

from slipway.core.events import EventLog
from slipway.core.paths import Home
from slipway.jobs import events_after


def test_each_event_is_read_once_and_a_torn_line_when_it_is_whole(home: Home) -> None:
    folder = make_run(home, "a")
    events, offset = events_after(folder, 0)
    assert len(events) == 5
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"type": "log", "mess')
    assert events_after(folder, offset) == ([], offset)
    with (folder / "events.jsonl").open("a") as file:
        file.write('age": "whole"}\nnot json\n')
    (event,), offset = events_after(folder, offset)
    assert event["message"] == "whole"
    assert events_after(folder, offset) == ([], offset)


def test_a_run_begun_anew_is_read_from_its_start(home: Home) -> None:
    folder = make_run(home, "a", steps=9)
    _, offset = events_after(folder, 0)
    (folder / "events.jsonl").unlink()
    assert events_after(folder, offset) == ([], 0)
    add_step(EventLog(folder / "events.jsonl"), 1)
    events, _ = events_after(folder, offset)
    assert [event["step"] for event in events] == [1]
