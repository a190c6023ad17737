from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.core.errors import ToolError
from slipway.core.paths import Home
from slipway.core.process import free_port, is_alive
from slipway.jobs.services import service_status, start_service, stop_service


def test_service_that_ends_at_once_is_reported_with_its_log(home: Home) -> None:
    with pytest.raises(ToolError) as caught:
        start_service(home, "serve", ["no-such-command"], url=f"http://127.0.0.1:{free_port()}")
    assert caught.value.code == "service.not_ready"
    assert "no-such-command" in caught.value.message_en
    assert service_status(home, "serve") is None


def test_record_of_a_recycled_process_id_is_not_ours(home: Home) -> None:
    import os

    path = home.services / "serve.json"
    path.parent.mkdir(parents=True)
    record = {
        "name": "serve",
        "pid": os.getpid(),
        "process_created": 12345.0,
        "url": "http://127.0.0.1:1",
        "log": "",
        "since": "",
    }
    path.write_text(json.dumps(record))
    assert service_status(home, "serve") is None
    assert not path.exists()


def test_stopping_what_does_not_run_says_so(home: Home) -> None:
    assert stop_service(home, "gateway") is False


@pytest.mark.parametrize("content", ["", "{", '{"name": 1}', "[]"])
def test_corrupt_record_counts_as_not_running(home: Home, content: str) -> None:
    path: Path = home.services / "serve.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert service_status(home, "serve") is None


def test_service_that_runs_without_answering_is_replaced(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was killed before the service answered must not leave an orphan behind."""
    import subprocess
    import sys

    from slipway.jobs import services

    monkeypatch.setattr(services, "ADOPT_TIMEOUT_S", 0.3)
    url = f"http://127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    ) as child:
        services._remember(home, "serve", child.pid, url, home.logs / "serve.log")
        assert service_status(home, "serve") is not None
        assert services.running_service(home, "serve") is None
        child.wait(10)
        assert not is_alive(child.pid)
    assert service_status(home, "serve") is None


def test_a_started_service_answers_is_adopted_and_stops(home: Home) -> None:
    """The gateway is the lightest of our servers; its object must not warn when it is dropped."""
    import gc

    from slipway.jobs.services import running_service

    port = free_port()
    command = ["gateway", "serve", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    service = start_service(home, "gateway", command, url=url, health_path="/healthz")
    try:
        gc.collect()
        assert running_service(home, "gateway", "/healthz") == service
    finally:
        assert stop_service(home, "gateway")
    assert not is_alive(service.pid)
    assert service_status(home, "gateway") is None
