from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import SlipwayError
from slipway.core.events import EventLog, read_events


def test_events_are_kept_in_order_and_handed_to_listeners(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    log = EventLog(tmp_path / "e.jsonl", seen.append)
    log.emit("state", name="run", value="start")
    log.emit("metric", step=1, loss=2.5)
    assert [e["type"] for e in read_events(log.path or Path())] == ["state", "metric"]
    assert list(read_events(tmp_path / "e.jsonl", "metric")) == seen[1:]


def test_torn_last_line_of_a_killed_writer_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    EventLog(path).emit("log", message="first")
    with path.open("a") as file:
        file.write('{"type": "metric", "lo')
    EventLog(path).emit("log", message="second")
    assert [e["message"] for e in read_events(path, "log")] == ["first", "second"]


def test_no_file_means_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none")) == []


def test_a_place_that_cannot_be_written_is_an_error_for_the_reader(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SlipwayError, match="file"):
        EventLog(tmp_path / "file" / "e.jsonl")
    log = EventLog(tmp_path / "e.jsonl")
    (tmp_path / "e.jsonl").mkdir()
    with pytest.raises(SlipwayError, match=r"e\.jsonl"):
        log.emit("log", message="x")
