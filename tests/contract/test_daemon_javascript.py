"""The official JavaScript clients, `ollama` and `openai`, run by Node against the daemon."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import RunningDaemon, StartDaemon
from tests.api.conftest import embedder as embedder
from tests.api.conftest import start_daemon as start_daemon
from tests.contract.node import run_script

from slipway.store import create_model
from slipway.testing.gguf import CHATML, write_gguf


@pytest.fixture
def daemon(start_daemon: StartDaemon, tmp_path: Path) -> RunningDaemon:
    running = start_daemon()
    able = CHATML + "{# tools <think></think> #}"
    gguf = write_gguf(tmp_path / "able.gguf", extra={"tokenizer.chat_template": able})
    create_model("able", f"FROM {gguf}", home=running.home)
    return running


def test_the_ollama_client_for_node_gets_what_its_types_promise(
    daemon: RunningDaemon, embedder: str
) -> None:
    got = run_script("ollama.mjs", daemon.url, "able", embedder)
    assert got["list"] == sorted(["able:latest", embedder])
    assert got["chat"]["message"] == {"role": "assistant", "content": "echo: hello there"}
    assert (got["chat"]["done"], got["chat"]["done_reason"]) == (True, "stop")
    assert got["chat"]["prompt_eval_count"] == 2 and got["chat"]["eval_count"] == 3
    assert joined(got["stream"]) == "echo: hello there"
    assert [piece["done"] for piece in got["stream"]] == [False, False, False, True]
    assert got["thinking"]["message"]["thinking"] == "let me see"
    (call,) = got["tools"]["message"]["tool_calls"]
    assert call["function"]["name"] == "find" and call["function"]["arguments"] == {"n": 1}
    assert got["format"]["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert got["generate"]["response"] == "echo: one"
    assert got["generate"]["done_reason"] == "length"
    assert "".join(piece["response"] for piece in got["generated"]) == "echo: one two"
    assert got["generated"][-1]["context"]
    assert [math.hypot(*v) for v in got["embed"]["embeddings"]] == pytest.approx([1.0, 1.0])
    assert got["legacy"]["embedding"] == pytest.approx(got["embed"]["embeddings"][0])
    assert {"details", "model_info", "capabilities", "modelfile"} <= set(got["show"])
    assert "able:latest" in got["ps"] and got["version"]["version"]


def test_the_ollama_client_for_node_aborts_errs_and_changes_the_store(
    daemon: RunningDaemon, embedder: str
) -> None:
    got = run_script("ollama.mjs", daemon.url, "able", embedder)
    assert got["aborted"]["name"] == "AbortError" and got["beforeAbort"] == 3
    assert all(resident.leases == 0 for resident in daemon.residents())
    assert got["missing"]["status"] == 404 and "'nope' not found" in got["missing"]["message"]
    assert got["bad"]["status"] == 400 and "temperature" in got["bad"]["message"]
    assert got["copied"] == {"status": "success"}
    assert got["created"][-1] == {"status": "success"}
    assert got["afterwards"] == sorted(["able:latest", embedder, "second:latest", "third:latest"])
    assert got["deleted"] == {"status": "success"}
    assert got["gone"]["status"] == 404


def test_the_openai_client_for_node(daemon: RunningDaemon, embedder: str) -> None:
    url = f"{daemon.url}/v1"
    got = run_script("openai.mjs", url, "any", "able", embedder, "responses")
    assert "able:latest" in got["models"]
    assert got["chat"]["choices"][0]["message"]["content"] == "echo: hello there"
    chunks = [c["choices"][0]["delta"] for c in got["stream"] if c["choices"]]
    assert "".join(delta.get("content", "") for delta in chunks) == "echo: hello there"
    assert got["stream"][-1]["usage"]["total_tokens"] == 5
    (call,) = got["tools"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"n": 1}
    assert len(got["embed"]["data"]) == 2
    assert (got["missing"]["name"], got["missing"]["status"]) == ("NotFoundError", 404)
    assert (got["bad"]["name"], got["bad"]["status"]) == ("BadRequestError", 400)
    assert got["response"]["output_text"] == "echo: hello there"
    assert got["events"][-1]["type"] == "response.completed"
    assert len(got["several"]["choices"]) == 2


def joined(pieces: list[dict[str, Any]]) -> str:
    return "".join(piece["message"]["content"] for piece in pieces)
