from __future__ import annotations

import pytest

from slipway.cli.main import main
from slipway.cli.stage_screen import Clock, Screen, progress_line


def test_progress_of_every_layer_is_shown_with_its_share_and_time() -> None:
    build = {"type": "progress", "stage": "build", "fraction": 0.5, "eta_s": 93.0}
    assert progress_line(build).split() == ["build", "50%", "ETA", "1:33"]
    merge = {"type": "progress", "unit": "merge: a", "done": 1, "total": 4}
    assert progress_line(merge).split() == ["merge:", "a", "25%"]
    unknown = {"type": "progress", "stage": "prove", "fraction": None, "eta_s": None}
    assert progress_line(unknown).split() == ["prove"]


def test_events_without_the_expected_fields_do_no_harm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    for kind in ("state", "progress", "metric", "log", "artefact", "sample"):
        screen.event({"type": kind})
    screen.event({"type": "metric", "kind": "eval", "step": 0, "loss": 3.25})
    assert "3.250" in capsys.readouterr().err


def test_an_interrupted_demo_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slipway.demo.run_demo", interrupted)
    assert main(["demo"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_time_left_follows_from_how_far_a_part_came(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 101.0, 110.0, 110.0])
    monkeypatch.setattr("slipway.cli.stage_screen.time.monotonic", lambda: next(now))
    clock = Clock()
    shares = [0.0, 0.01, 0.25]
    seen = [clock.with_eta({"stage": "quantize", "fraction": f}).get("eta_s") for f in shares]
    assert seen == [None, None, pytest.approx(30.0)]
    assert "eta_s" not in clock.with_eta({"stage": "prove", "fraction": None})
    assert clock.with_eta({"stage": "build", "fraction": 0.5, "eta_s": 3.0})["eta_s"] == 3.0
