from __future__ import annotations

import struct
from pathlib import Path

from slipway.core.events import EventLog
from slipway.training.curve import curve_points, draw_curve, smooth


def test_a_step_done_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for step, loss in ((1, 3.0), (2, 2.5), (3, 9.0), (3, 2.0)):
        log.emit("metric", kind="train", step=step, loss=loss)
    log.emit("metric", kind="eval", step=0, loss=3.5)
    log.emit("log", message="not a point")
    train, evals = curve_points(tmp_path / "events.jsonl")
    assert train == [(1, 3.0), (2, 2.5), (3, 2.0)]
    assert evals == [(0, 3.5)]


def test_smoothing_keeps_the_level_and_the_number_of_points() -> None:
    assert smooth([2.0] * 7) == [2.0] * 7
    assert smooth([]) == []
    values = smooth([1.0, 3.0] * 50)
    assert len(values) == 100
    assert all(1.5 < value < 2.5 for value in values)


def test_the_picture_is_a_png_of_the_stated_size(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for step in range(1, 20):
        log.emit("metric", kind="train", step=step, loss=3.0 / step)
    log.emit("metric", kind="eval", step=0, loss=3.5)
    log.emit("metric", kind="eval", step=19, loss=1.0)
    draw_curve(tmp_path / "events.jsonl", tmp_path / "curve.png", title="客服")
    png = (tmp_path / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (960, 810)


def test_a_run_without_points_still_gets_a_picture(tmp_path: Path) -> None:
    draw_curve(tmp_path / "none.jsonl", tmp_path / "curve.png", title="empty")
    assert (tmp_path / "curve.png").is_file()
