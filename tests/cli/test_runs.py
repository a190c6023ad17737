from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.jobs.runs_for_tests import make_run

from slipway.cli.main import main
from slipway.core.errors import EXIT_NOT_FOUND, EXIT_USAGE
from slipway.core.events import EventLog
from slipway.core.paths import Home


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_ls_filters_and_says_what_to_do_when_there_is_nothing(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "ls"]) == 0
    assert "slipway train" in capsys.readouterr().err
    make_run(home, "shop-a", end="finished")
    make_run(home, "text-b", end="failed")
    assert main(["runs", "ls"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("ID\tNAME\tSTATE")
    assert "finished\t3/10\t3.7\t2" in out
    assert main(["runs", "ls", "shop"]) == 0
    assert "text-b" not in capsys.readouterr().out
    found = run_json(capsys, "runs", "ls", "--state", "failed")
    assert [run["name"] for run in found["runs"]] == ["text-b"]  # type: ignore[index,attr-defined]


def test_states_are_shown_in_chinese(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(home, "a", end="stopped")
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert main(["runs", "ls"]) == 0
    assert "已停止" in capsys.readouterr().out


def test_show_has_settings_with_origins_samples_findings_and_the_error(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(home, "a", end="failed")
    log = EventLog(folder / "events.jsonl")
    log.emit("sample", step=3, prompt="hello?", answer="good day")
    params = {"start": 4.0, "now": 3.99}
    log.emit("diagnosis", code="loss_stands_still", step=3, message="m", hint="h", params=params)
    log.emit("diagnosis", code="of_a_later_version", step=3, message="strange", hint="wait")
    assert main(["runs", "show", "a"]) == 0
    out = capsys.readouterr().out
    assert "learning_rate = 0.001  (flag)" in out
    assert "lora.rank = 8" not in out
    assert "at their defaults" in out
    assert "hello?" in out and "good day" in out
    assert "the loss does not fall" in out
    assert "strange; wait" in out
    assert "no space (disk.full)" in out
    assert main(["runs", "show", "a", "--all"]) == 0
    assert "lora.rank = 8  (default)" in capsys.readouterr().out
    found = run_json(capsys, "runs", "show", "a")
    assert found["settings"]["learning_rate"]["origin"] == "flag"  # type: ignore[index,call-overload]


def test_logs_print_words_or_events(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(home, "a", end="stopped")
    assert main(["runs", "logs", "a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "eval loss 4.0000" in lines[1]
    assert "3/10  loss 3.7000  lr 1.00e-03  grad_norm 0.5  tokens_per_s 50  1.0 GB" in lines[4]
    assert main(["runs", "logs", "a", "-f", "-n", "1", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["state"] == "stopped"


def test_compare_prints_tables_and_draws_a_picture(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_run(home, "a", end="finished")
    make_run(home, "b", end="finished", lora={"rank": 32})
    png = tmp_path / "both.png"
    assert main(["runs", "compare", "a", "b", "-o", str(png)]) == 0
    out = capsys.readouterr().out
    assert "lora.rank\t8\t32" in out
    assert "against the base\t-50.0%\t-50.0%" in out
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main(["runs", "compare", "a"]) == EXIT_USAGE


def test_tag_note_and_rm(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(home, "a", end="finished")
    assert run_json(capsys, "runs", "tag", "a", "good", "zh")["tags"] == ["good", "zh"]
    assert run_json(capsys, "runs", "tag", "a", "-r", "zh")["tags"] == ["good"]
    assert main(["runs", "note", "a", "the best so far"]) == 0
    assert main(["runs", "note", "a"]) == 0
    assert capsys.readouterr().out.endswith("the best so far\n")
    assert main(["runs", "rm", "a"]) == EXIT_USAGE
    assert "--yes" in capsys.readouterr().err
    assert folder.is_dir()
    assert main(["runs", "rm", "a", "--yes"]) == 0
    assert not folder.exists()
    assert main(["runs", "show", "a"]) == EXIT_NOT_FOUND


def test_what_a_state_does_not_allow_is_refused_with_the_states_that_do(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(home, "a", end="finished")
    assert main(["runs", "stop", "a"]) == 1
    assert "queued, running" in capsys.readouterr().err
    assert main(["runs", "resume", "a"]) == 1
    assert "stopped" in capsys.readouterr().err


def test_a_run_that_vanished_with_the_memory_full_is_said_to_be_killed_for_it(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.core import hardware

    monkeypatch.setattr(hardware, "_memory_bytes", lambda: 1_100_000_000)
    make_run(home, "a")
    assert main(["runs", "show", "a"]) == 0
    assert "its process vanished with 1.0 of 1.1 GB" in capsys.readouterr().out
    make_run(home, "b", end="interrupted")
    assert main(["runs", "show", "b"]) == 0
    assert "its process" not in capsys.readouterr().out
