"""A daemon on a real socket, in a thread, with fake engines as real child processes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from slipway.api import build_app
from slipway.core.paths import Home
from slipway.engine.providers import Provider
from slipway.engine.residency import Resident
from slipway.engine.settings import EngineSettings
from slipway.store import create_model
from slipway.testing.gguf import write_gguf


@dataclass
class RunningDaemon:
    url: str
    home: Home
    app: object

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def residents(self) -> list[Resident]:
        return self.app.state.daemon.residency.residents()  # type: ignore[attr-defined]


StartDaemon = Callable[..., RunningDaemon]


def fake_provider(*arguments: str) -> Provider:
    return Provider("fake", (sys.executable, "-m", "slipway.testing.fake_engine", *arguments))


@pytest.fixture
def start_daemon(home: Home) -> Iterator[StartDaemon]:
    """Start a daemon with these fake-engine flags and settings; all are stopped at the end."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(*flags: str, key: str = "", **settings: object) -> RunningDaemon:
        app = build_app(
            home,
            EngineSettings(**settings),  # type: ignore[arg-type]
            provider=fake_provider(*flags),
            key=key,
        )
        config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        return RunningDaemon(f"http://127.0.0.1:{port}", home, app)

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def shop(home: Home, tmp_path: Path) -> str:
    """A chat model with parameters of its own."""
    gguf = write_gguf(tmp_path / "shop.gguf")
    text = f'FROM {gguf}\nPARAMETER temperature 0.25\nPARAMETER stop "<end>"\nSYSTEM Be short.'
    return create_model("shop:q4", text, home=home).name.display


@pytest.fixture
def embedder(home: Home, tmp_path: Path) -> str:
    """A model that only embeds."""
    gguf = write_gguf(
        tmp_path / "bert.gguf",
        architecture="bert",
        context_length=16,
        extra={"bert.pooling_type": 1, "tokenizer.chat_template": None},
    )
    return create_model("minilm", f"FROM {gguf}", home=home).name.display


@pytest.fixture
def daemon(start_daemon: StartDaemon, shop: str) -> RunningDaemon:
    return start_daemon()


@pytest.fixture
def http(daemon: RunningDaemon) -> Iterator[httpx.Client]:
    with daemon.client() as client:
        yield client
