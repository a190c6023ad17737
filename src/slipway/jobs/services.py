"""Services in the background: start, adopt, ask, stop.

A service is one of our own servers, started as a detached child and remembered in
`SLIPWAY_HOME/services/<name>.json`. A record counts only while a process with that id *and* that
start time lives, so a recycled process id is never taken for ours.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from slipway.core.errors import ToolError
from slipway.core.files import write_json
from slipway.core.i18n import tr
from slipway.core.manifest import utc_now
from slipway.core.paths import Home
from slipway.core.process import log_tail, start

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ADOPT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running background service.

    Attributes:
        name: "serve" or "gateway".
        pid: process id.
        process_created: the process's start time in unix seconds, to know it again.
        url: base URL, for example "http://127.0.0.1:11434".
        log: its log file.
        since: RFC 3339 time of the start.
    """

    name: str
    pid: int
    process_created: float
    url: str
    log: str
    since: str


def service_status(home: Home, name: str) -> Service | None:
    """The service if it runs now; a stale record is removed."""
    path = _record(home, name)
    try:
        service = Service(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    with suppress(psutil.Error):
        process = psutil.Process(service.pid)
        same = abs(process.create_time() - service.process_created) < 1
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return service
    path.unlink(missing_ok=True)
    return None


def start_service(
    home: Home,
    name: str,
    arguments: Sequence[str],
    *,
    url: str,
    health_path: str = "/",
    timeout_s: float = READY_TIMEOUT_S,
) -> Service:
    """Start `slipway <arguments>` in the background and wait until it answers.

    Args:
        url: where it will listen.
        health_path: a path that answers 200 when it is ready.

    Raises:
        ToolError: it ended, or did not answer within `timeout_s`; the message quotes its log.
    """
    log = home.logs / f"{name}.log"
    process = start(
        [sys.executable, "-m", "slipway.cli", *arguments],
        log=log,
        env={"SLIPWAY_HOME": str(home.root)},
        detached=True,
    )
    service = _remember(home, name, process.pid, url, log)
    deadline = time.monotonic() + timeout_s
    while not answers(url + health_path):
        if process.poll() is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _record(home, name).unlink(missing_ok=True)
            raise ToolError(
                "service.not_ready",
                tr("the service `{name}` did not start: {log}", name=name, log=log_tail(log)),
                tr("see the whole log in {path}", path=str(log)),
            )
        time.sleep(0.1)
    # It is meant to outlive us: without this, Popen warns that nobody waited for its child.
    process.returncode = 0
    return service


def _remember(home: Home, name: str, pid: int, url: str, log: Path) -> Service:
    """Write the record before the service answers: if we die now, the next start finds it."""
    created = 0.0
    with suppress(psutil.NoSuchProcess):
        created = psutil.Process(pid).create_time()
    service = Service(name, pid, created, url, str(log), utc_now())
    write_json(_record(home, name), asdict(service))
    return service


def running_service(home: Home, name: str, health_path: str = "/") -> Service | None:
    """The service if it runs and answers; one that runs without answering is stopped."""
    service = service_status(home, name)
    if service is None:
        return None
    deadline = time.monotonic() + ADOPT_TIMEOUT_S
    while time.monotonic() < deadline:
        if answers(service.url + health_path):
            return service
        time.sleep(0.2)
    stop_service(home, name)
    return None


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a GET of `url` answers with a status below 400."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            url, timeout=timeout_s
        ):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def stop_service(home: Home, name: str) -> bool:
    """Stop a background service: SIGTERM, then SIGKILL. Returns whether it ran."""
    service = service_status(home, name)
    if service is None:
        return False
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(service.pid)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(service.pid, signal.SIGKILL)
    _record(home, name).unlink(missing_ok=True)
    return True


def _record(home: Home, name: str) -> Path:
    return home.services / f"{name}.json"
