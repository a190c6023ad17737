from __future__ import annotations

import sys

import pytest

from slipway.cli.output import LiveLine, duration, size


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (5e12, "5.0 TB")]
)
def test_sizes_are_powers_of_1000(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), [(7.6, "8 s"), (187, "3:07"), (3765, "1:02:45")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_live_line_on_a_terminal_ends_only_what_it_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    line = LiveLine()
    line.done()
    assert capsys.readouterr().err == ""
    line.show("50 %")
    line.done()
    assert capsys.readouterr().err == "\r50 %\n"


def test_live_line_in_a_log_is_plain_and_rare(capsys: pytest.CaptureFixture[str]) -> None:
    line = LiveLine(plain_every_s=3600)
    for share in range(100):
        line.show(f"{share} %")
    line.done("all done")
    assert capsys.readouterr().err == "0 %\nall done\n"
