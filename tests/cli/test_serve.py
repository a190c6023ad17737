from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

from slipway.core.paths import Home


def test_the_ready_document_is_there_while_the_daemon_runs_and_sigterm_is_a_good_end(
    home: Home,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "slipway.cli", "serve", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        said, deadline = b"", time.monotonic() + 30
        while not said.rstrip().endswith(b"}"):
            assert select.select([process.stdout], [], [], deadline - time.monotonic())[0]
            said += os.read(process.stdout.fileno(), 4096)
        ready = json.loads(said)
        assert ready["pid"] == process.pid and ready["url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
