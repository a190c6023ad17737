"""The official `openai` client for Node through the gateway to the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.api.conftest import embedder as embedder
from tests.api.conftest import start_daemon as start_daemon
from tests.contract.node import run_script

from slipway.core.paths import Home
from slipway.gateway import (
    ChannelSpec,
    Price,
    add_channel,
    add_token,
    add_user,
    build_app,
    check_books,
    list_requests,
    open_store,
)
from slipway.store import create_model
from slipway.testing.asgi_server import AsgiServer
from slipway.testing.gguf import CHATML, write_gguf


@pytest.fixture
def daemon(start_daemon: StartDaemon, embedder: str, tmp_path: Path) -> RunningDaemon:
    running = start_daemon()
    able = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": able})
    create_model("able", f"FROM {gguf}", home=running.home)
    return running


@pytest.fixture
def gateway(daemon: RunningDaemon, home: Home) -> Iterator[tuple[str, str]]:
    store = open_store()
    add_user(store, "ada")
    _, key = add_token(store, "node", user="ada", budget_micro=10**9)
    price = Price(input=1_000_000, output=2_000_000)
    add_channel(store, ChannelSpec("main", "slipway", daemon.url, price=price))
    with AsgiServer(build_app(store)) as server:
        yield server.url, key
    assert check_books(store) == []
    rows = list_requests(store)
    assert all(row["cost_micro"] > 0 for row in rows if row["error"] is None)
    store.close()


def test_chat_stream_tools_embeddings_and_errors(gateway: tuple[str, str], embedder: str) -> None:
    url, key = gateway
    got = run_script("openai.mjs", f"{url}/v1", key, "able", embedder)
    assert {"able:latest", embedder} <= set(got["models"])
    assert got["chat"]["choices"][0]["message"]["content"] == "echo: hello there"
    deltas = [c["choices"][0]["delta"] for c in got["stream"] if c["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "echo: hello there"
    assert got["stream"][-1]["usage"]["total_tokens"] == 5
    (call,) = got["tools"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"n": 1}
    assert [len(row["embedding"]) for row in got["embed"]["data"]] == [8, 8]
    assert (got["missing"]["name"], got["missing"]["code"]) == ("NotFoundError", "model_not_found")
    assert (got["bad"]["name"], got["bad"]["status"]) == ("BadRequestError", 400)


def test_a_wrong_key_is_an_authentication_error(gateway: tuple[str, str], embedder: str) -> None:
    url, _ = gateway
    with pytest.raises(AssertionError, match=r"AuthenticationError|401"):
        run_script("openai.mjs", f"{url}/v1", "sk-wrong", "able", embedder)
