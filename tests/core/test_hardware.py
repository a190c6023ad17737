from __future__ import annotations

import os
import subprocess
import sys

import pytest

from slipway.core.hardware import share_cores


def test_waiting_threads_leave_the_cores_to_others_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    share_cores()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_the_command_line_says_so_before_torch_is_there() -> None:
    code = (
        "import os, sys; from slipway.cli.main import main; main(['--version']);"
        "assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    )
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) < 10_000
