"""A daemon with fake engines, and one with a real engine and the tiny model."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.api.conftest import (  # noqa: F401  # fixtures
    RunningDaemon,
    StartDaemon,
    daemon,
    embedder,
    shop,
    start_daemon,
)
from tests.export.conftest import shared_tools  # noqa: F401  # fixture

from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain
from slipway.store import ModelName, create_model, resolve_model
from slipway.store.manifests import PROJECTOR, Layer, ManifestStore
from slipway.testing.gguf import write_gguf


@pytest.fixture(autouse=True)
def no_other_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.delenv("OLLAMA_NOHISTORY", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def here(daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch) -> RunningDaemon:  # noqa: F811
    """The daemon with fake engines, found by every command without `--url`."""
    monkeypatch.setenv("OLLAMA_HOST", daemon.url.removeprefix("http://"))
    return daemon


@pytest.fixture
def thinker(home: Home, tmp_path: Path) -> str:
    """A model whose template has room for thoughts."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think></think>"
    gguf = write_gguf(tmp_path / "t.gguf", extra={"tokenizer.chat_template": template})
    return create_model("thinker", f"FROM {gguf}", home=home).name.display


@pytest.fixture
def seer(shop: str, home: Home, tmp_path: Path) -> str:  # noqa: F811
    """A model with a projector, so that it takes pictures."""
    model = resolve_model(shop, home=home)
    store = ManifestStore(home.models)
    with store.blobs.lock(exclusive=False):
        blob = store.blobs.put_file(write_gguf(tmp_path / "p.gguf", architecture="clip"))
    layers = [*model.layers, Layer(PROJECTOR, blob.digest, blob.size)]
    return store.write(ModelName.parse("seer"), model.config, layers).name.display


@dataclass
class RealDaemon:
    url: str
    home: Home
    model: str


@pytest.fixture(scope="session")
def real_daemon(
    tmp_path_factory: pytest.TempPathFactory,
    shared_tools: Toolchain,  # noqa: F811
) -> Iterator[RealDaemon]:
    """`slipway serve` with llama.cpp and a tiny random model, `tiny`."""
    folder = tmp_path_factory.mktemp("real-daemon")
    home = Home(folder / "home")
    env = {**os.environ, "SLIPWAY_HOME": str(home.root), "SLIPWAY_LANG": "en"}
    env["SLIPWAY_TOOLCHAIN"] = str(shared_tools.folder)
    convert = "import sys, pathlib; from slipway.core.paths import Home\n"
    convert += "from slipway.export import convert_to_gguf; from slipway.testing.tiny import *\n"
    convert += "p = pathlib.Path(sys.argv[1])\n"
    convert += "convert_to_gguf(tiny_model(p / 'tiny'), p / 'gguf', outtype='f32', home=Home(p))\n"
    subprocess.run([sys.executable, "-c", convert, str(folder)], check=True, env=env)
    text = f"FROM {folder / 'gguf'}\nPARAMETER num_predict 40\nSYSTEM Be short."
    create_model("tiny", text, home=home)
    process = subprocess.Popen(
        [sys.executable, "-m", "slipway.cli", "serve", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        env=env,
    )
    assert process.stdout is not None
    try:
        said = b""
        while not said.rstrip().endswith(b"}"):
            said += os.read(process.stdout.fileno(), 4096)
        yield RealDaemon(json.loads(said)["url"], home, "tiny")
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.fixture
def real(real_daemon: RealDaemon, monkeypatch: pytest.MonkeyPatch) -> RealDaemon:
    """The daemon with a real engine, found by every command without `--url`."""
    monkeypatch.setenv("OLLAMA_HOST", real_daemon.url.removeprefix("http://"))
    return real_daemon
