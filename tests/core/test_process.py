from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, ToolError, UsageError
from slipway.core.process import is_alive, log_tail, port_is_free, require_port, run, start, stop

PYTHON = sys.executable


def test_run_returns_what_was_printed_and_reports_each_line() -> None:
    lines: list[str] = []
    assert run([PYTHON, "-c", "print('a'); print('b')"], on_line=lines.append) == "a\nb\n"
    assert lines == ["a", "b"]


def test_failure_quotes_the_end_of_the_log() -> None:
    with pytest.raises(ToolError) as caught:
        run([PYTHON, "-c", "import sys; print('cause'); sys.exit(3)"])
    assert "exit 3" in caught.value.message_en and "cause" in caught.value.message_en


def test_death_by_signal_is_named() -> None:
    with pytest.raises(ToolError) as caught:
        run([PYTHON, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})"])
    assert "SIGILL" in caught.value.message_en


def test_timeout_stops_the_program_and_its_children() -> None:
    began = time.monotonic()
    with pytest.raises(ToolError) as caught:
        run(
            [PYTHON, "-c", "import time\nfor i in range(90): print(i, flush=True); time.sleep(.1)"],
            timeout_s=0.5,
        )
    assert "timeout" in caught.value.message_en
    assert time.monotonic() - began < 8


def test_timeout_stops_a_program_that_prints_nothing() -> None:
    began = time.monotonic()
    with pytest.raises(ToolError) as caught:
        run([PYTHON, "-c", "import time; time.sleep(60)"], timeout_s=0.5)
    assert "timeout" in caught.value.message_en
    assert time.monotonic() - began < 8


def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from slipway.core.process import start\n"
        "child = start([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"Path({str(child_file)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([PYTHON, "-c", code]) as parent:
        deadline = time.monotonic() + 20
        while not (child_file.is_file() and child_file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = int(child_file.read_text())
        assert is_alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def test_stop_ends_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); "
    child = start([PYTHON, "-c", code + "time.sleep(60)"], log=log)
    deadline = time.monotonic() + 20
    while "up" not in log_tail(log):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop(child, timeout_s=0.3)
    assert child.returncode == -signal.SIGKILL


def test_port_in_use_is_told_with_another_port_to_use() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
        with pytest.raises(ConflictError) as caught:
            require_port("127.0.0.1", port, "slipway serve")
    assert f"slipway serve --port {port + 1}" in caught.value.hint_en


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_not_called_a_port_in_use(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_port(host, 11434, "slipway serve")
    assert host in caught.value.message_en
    assert "slipway serve --host 127.0.0.1" in caught.value.hint_en
