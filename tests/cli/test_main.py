from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from slipway.cli.main import COMMANDS, LazyGroup, cli, main


def test_every_command_of_the_table_can_be_loaded() -> None:
    assert isinstance(cli, LazyGroup)
    for name in COMMANDS:
        assert cli.get_command(None, name) is not None  # type: ignore[arg-type]


def test_every_command_and_subcommand_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(("Usage:", "用法"))


def test_unknown_command_offers_the_nearest_and_exits_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trian"]) == 2
    assert "`train`" in capsys.readouterr().err


def test_unknown_option_exits_2_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--jsn"]) == 2
    error = capsys.readouterr().err
    assert "error:" in error and "slipway status --help" in error


def test_error_as_json_is_one_english_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    assert main(["data", "check", "/does/not/exist", "--json"]) in (1, 5)
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] and error["message"].isascii()


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 6), (errno.EACCES, 2)])
def test_a_fault_of_the_machine_is_never_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number), "/somewhere")

    monkeypatch.setattr(cli, "main", fail)
    assert main(["status"]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "/somewhere" in error and "hint: " in error


def test_other_system_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EBADF, "bad descriptor")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(OSError, match="bad descriptor"):
        main(["status"])


def test_help_is_chinese_for_a_chinese_reader() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slipway.cli", "--help"],
        env={"SLIPWAY_LANG": "zh", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "按配方微调模型" in done.stdout


def test_status_without_services_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"services": []}
    assert main(["down"]) == 0
    assert "no service" in capsys.readouterr().err
