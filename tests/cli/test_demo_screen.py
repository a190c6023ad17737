from __future__ import annotations

import pytest

from slipway.cli.commands.demo import Screen, progress_line
from slipway.cli.main import main


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
