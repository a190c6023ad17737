from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx
from tests.gateway.gateway_for_tests import PRICE

from slipway.core.process import free_port
from slipway.gateway import (
    ChannelSpec,
    Store,
    add_channel,
    add_token,
    add_user,
    check_books,
    list_requests,
    list_tokens,
)
from slipway.testing.fake_upstream import FakeAnswer, FakeUpstream


def start(port: int) -> subprocess.Popen[bytes]:
    code = "import sys; from slipway.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "gateway", "serve", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).is_success:
                return process
        assert process.poll() is None and time.monotonic() < deadline, "the gateway did not start"
        time.sleep(0.05)


def ask(port: int, key: str, timeout: float = 20) -> int:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a b"}], "max_tokens": 5}
    headers = {"Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=timeout, trust_env=False).status_code


def test_kill_between_reserve_and_settle_loses_no_money(
    store: Store, upstream: FakeUpstream
) -> None:
    add_user(store, "ada")
    _, key = add_token(store, "laptop", user="ada", budget_micro=10_000)
    add_channel(store, ChannelSpec("main", "slipway", upstream.url, price=PRICE))
    port = free_port()
    gateway = start(port)
    try:
        assert ask(port, key) == 200
        upstream.script(FakeAnswer(delay_s=10))
        client = threading.Thread(target=lambda: suppressed_ask(port, key))
        client.start()
        deadline = time.monotonic() + 10
        while not list_tokens(store)[0].held_micro:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
        client.join()
        held = list_tokens(store)[0]
        assert held.held_micro > 0 and held.used_micro == 6
        gateway = start(port)
        after = list_tokens(store)[0]
        assert (after.used_micro, after.held_micro) == (6, 0)
        assert [row["error"] for row in list_requests(store)] == ["gateway_died", None]
        assert ask(port, key) == 200
        assert list_tokens(store)[0].used_micro == 12
        assert check_books(store) == []
    finally:
        gateway.terminate()
        gateway.wait()


def suppressed_ask(port: int, key: str) -> None:
    with suppress(httpx.HTTPError):
        ask(port, key)


def test_a_polite_stop_settles_a_running_stream(store: Store, upstream: FakeUpstream) -> None:
    add_user(store, "ada")
    _, key = add_token(store, "laptop", user="ada")
    add_channel(store, ChannelSpec("main", "slipway", upstream.url, price=PRICE))
    upstream.script(FakeAnswer(pieces=("x",) * 1000, piece_delay_s=0.05))
    port = free_port()
    gateway = start(port)
    try:
        body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "a"}]}
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        with (
            suppress(httpx.HTTPError),
            httpx.stream("POST", url, json=body, headers=headers, trust_env=False) as answer,
        ):
            for number, _ in enumerate(answer.iter_lines()):
                if number == 5:
                    gateway.terminate()
        assert gateway.wait(20) == 0
    finally:
        gateway.kill()
        gateway.wait()
    row = list_requests(store)[0]
    assert row["completion_tokens"] > 2 and row["cost_micro"] > 0
    assert list_tokens(store)[0].held_micro == 0
    assert check_books(store) == []
