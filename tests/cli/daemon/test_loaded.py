from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.pseudo_terminal import Terminal

from slipway.cli.commands.loaded import processor, seconds_left, until
from slipway.cli.load_view import Look, between
from slipway.cli.main import main
from slipway.core.errors import (
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
)
from slipway.core.process import free_port
from slipway.store import resolve_model

Capture = pytest.CaptureFixture[str]


def within(seconds: float, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ps_and_stop(here: RunningDaemon, shop: str, embedder: str, capsys: Capture) -> None:
    assert main(["ps"]) == 0
    assert "no model is loaded" in capsys.readouterr().err
    assert main(["run", shop, "hi"]) == 0 and main(["run", embedder, "hi"]) == 0
    capsys.readouterr()
    assert main(["ps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert sorted(line.split("\t")[0] for line in lines[1:]) == [f"{embedder}", shop]
    assert "100% CPU\t2048\t5 min from now" in "\n".join(lines)
    assert main(["ps", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} == {shop, embedder}

    assert main(["stop", "SHOP:q4"]) == 0  # names are the same whatever the case
    assert "shop:q4 is unloaded" in capsys.readouterr().out
    within(5, lambda: [r.name for r in here.residents()] == [embedder])
    assert main(["stop", shop, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": shop, "was_loaded": False}]
    assert main(["stop", "--all"]) == 0
    within(5, lambda: not here.residents())


def test_stop_says_what_is_wrong(here: RunningDaemon, shop: str, capsys: Capture) -> None:
    assert main(["stop"]) == EXIT_USAGE
    assert main(["stop", shop, "--all"]) == EXIT_USAGE
    assert main(["stop", shop, "nothing"]) == EXIT_NOT_FOUND
    assert f"{shop} was not loaded" in capsys.readouterr().out


def test_a_busy_model_ends_its_answer_before_it_is_unloaded(
    start_daemon: StartDaemon, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = start_daemon("--tokens-per-second", "40")
    monkeypatch.setenv("OLLAMA_HOST", daemon.url)
    words: list[str] = []

    def ask() -> None:
        body = {"model": shop, "prompt": "/count 40", "stream": False}
        answer = httpx.post(f"{daemon.url}/api/generate", json=body, timeout=30)
        words.extend(answer.json()["response"].split())

    asking = threading.Thread(target=ask)
    asking.start()
    within(10, lambda: any(r.leases for r in daemon.residents()))
    assert main(["stop", shop]) == 0
    asking.join()
    assert len(words) == 40
    within(5, lambda: not daemon.residents())


def test_no_daemon_is_exit_3_and_starts_none(capsys: Capture) -> None:
    nobody = ["--url", f"http://127.0.0.1:{free_port()}"]
    for command in (["ps"], ["stop", "x"], ["top", "--once"], ["cp", "a", "b"]):
        assert main([*command, *nobody]) == EXIT_UNREACHABLE
    assert "slipway serve" in capsys.readouterr().err


def test_cp_gives_a_second_name_with_the_same_digest(
    here: RunningDaemon, shop: str, embedder: str, capsys: Capture
) -> None:
    assert main(["cp", shop, "team/kefu:v2"]) == 0
    one, other = (resolve_model(name, home=here.home) for name in (shop, "team/kefu:v2"))
    assert one.digest == other.digest and other.name.display == "team/kefu:v2"
    assert main(["rm", shop]) == 0
    assert main(["run", "team/kefu:v2", "still", "whole"]) == 0
    assert "echo: still whole" in capsys.readouterr().out
    # a name that means another model is replaced only when asked for
    assert main(["cp", embedder, "team/kefu:v2"]) == EXIT_FAILED
    assert "--force" in capsys.readouterr().err
    assert main(["cp", embedder, "team/kefu:v2", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replaced"] is True
    assert main(["cp", "nothing", "x"]) == EXIT_NOT_FOUND
    assert main(["cp", embedder, "a//b"]) == EXIT_USAGE


def test_copy_answers_as_ollama_does(here: RunningDaemon, shop: str) -> None:
    with here.client() as http:
        done = http.post("/api/copy", json={"source": shop, "destination": "kefu"})
        assert (done.status_code, done.content) == (200, b"")
        assert http.post("/api/copy", json={"source": "no", "destination": "x"}).status_code == 404
        assert http.post("/api/copy", json={"source": shop}).status_code == 400
        for bad in ("../../x", "a b", ""):
            body = {"source": shop, "destination": bad}
            assert http.post("/api/copy", json=body).status_code == 400
        same = http.post("/api/copy", json={"source": shop, "destination": shop.upper()})
        assert same.status_code == 200


def test_top_once_tells_what_goes_on(
    start_daemon: StartDaemon, shop: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    daemon = start_daemon("--tokens-per-second", "100", parallel=2)
    monkeypatch.setenv("OLLAMA_HOST", daemon.url)

    def ask() -> None:
        body = {"model": shop, "prompt": "/count 300", "stream": False}
        httpx.post(f"{daemon.url}/api/generate", json=body, timeout=60)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    within(10, lambda: sum(r.leases for r in daemon.residents()) == 2)
    assert main(["top", "--json", "--interval", "1"]) == 0
    load = json.loads(capsys.readouterr().out)
    row = load["models"][0]
    assert (row["name"], row["active"], row["slots"], row["waiting"]) == (shop, 2, 2, 1)
    assert 80 < row["tokens_per_s"] < 220 and row["memory_bytes"] > 0
    assert row["oldest_wait_s"] > 0.5
    assert main(["top", "--once"]) == 0
    said = capsys.readouterr()
    assert f"{shop}\t2/2\t1\t" in said.out and "2 answers in progress, 1 waiting" in said.err
    for thread in asking:
        thread.join()


def test_top_on_a_terminal_redraws_and_leaves_by_ctrl_c(here: RunningDaemon, shop: str) -> None:
    assert main(["run", shop, "hi"]) == 0
    with Terminal(["top", "--interval", "0.2"], env={}, columns=140) as terminal:
        for _ in range(3):
            terminal.wait_for(shop)
        terminal.type("\x03")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.output


def test_rates_of_a_daemon_that_was_started_again_are_not_negative() -> None:
    first = "slipway_time_to_first_token_seconds_count"
    row = {"model": "m", "active": 0, "slots": 1, "waiting": []}
    before = Look(0.0, [], [row], {first: {"m": 100.0}})
    now = Look(2.0, [], [row], {first: {"m": 5.0}})
    later = Look(4.0, [], [row], {first: {"m": 9.0}})
    assert between("u", before, now).models[0].tokens_per_s == 0
    assert between("u", now, later).models[0].tokens_per_s == 2


def test_times_and_places_are_worded() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=59.6)
    assert str(until(soon.isoformat())) == "60 s from now"
    assert str(until("2318-01-01T00:00:00.123456789+08:00")) == "for ever"
    assert str(until("2020-01-01T00:00:00Z")) == "stopping"
    assert -1 < seconds_left(datetime.now(UTC).isoformat().replace("+00:00", "Z")) <= 0
    assert [processor(10, on_gpu) for on_gpu in (0, 6, 10)] == [
        "100% CPU",
        "40%/60% CPU/GPU",
        "100% GPU",
    ]
