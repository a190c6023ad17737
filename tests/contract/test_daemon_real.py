"""The daemon with the real engine: what it renders, adapters per request, cancelling, cutting."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.export.conftest import shared_tools as shared_tools
from tests.export.test_convert_adapter import peft_adapter

from slipway.cli.main import main
from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.export import convert_adapter, convert_to_gguf
from slipway.export.toolchain import Toolchain
from slipway.store import create_model
from slipway.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.fixture
def tools(shared_tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(shared_tools.folder))
    return shared_tools


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base")


@pytest.fixture
def gguf(tools: Toolchain, base: Path, home: Home, tmp_path: Path) -> Path:
    convert_to_gguf(base, tmp_path / "gguf", outtype="f32", home=home)
    return tmp_path / "gguf" / "model.gguf"


@pytest.fixture
def url(tools: Toolchain, gguf: Path, home: Home) -> Iterator[str]:
    """`slipway serve` as a process, with a model of that GGUF and texts of its own."""
    create_model("plain", f"FROM {gguf}\nPARAMETER temperature 0", home=home)
    text = f"FROM {gguf}\nSYSTEM Be brief.\nMESSAGE user hi\nMESSAGE assistant hello"
    create_model("shop:q4", f"{text}\nPARAMETER temperature 0", home=home)
    env = {**os.environ, "SLIPWAY_LOG": "WARNING", "SLIPWAY_ENGINE": "native"}
    command = [sys.executable, "-m", "slipway.cli", "serve", "--port", str(free_port())]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready at ")
        yield line.split()[2]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()


def answer(url: str, model: str, **options: Any) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "can i return my lamp"}],
        "options": {"num_predict": 24, **options},
        "stream": False,
    }
    got = httpx.post(f"{url}/api/chat", json=body, timeout=60)
    assert got.status_code == 200, got.text
    return str(got.json()["message"]["content"])


def test_the_daemon_renders_and_tokenises_what_was_trained(
    url: str, base: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for model in ("plain", "shop:q4"):
        line = ["prove", model, "--daemon", url, "--against", str(base), "--json"]
        assert main(line) == 0, capsys.readouterr().err
        proof = json.loads(capsys.readouterr().out)
        assert proof["chats"] == 3 and proof["texts"] >= 13
        results = {chat["case"]: chat["result"] for chat in proof["hard_chats"]}
        assert results["control tokens in a user's text"] == "equal"
    other = tiny_model(tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_end|>"))
    assert main(["prove", "plain", "--daemon", url, "--against", str(other)]) == 1
    assert "differs" in capsys.readouterr().err
    assert main(["prove", "gone", "--daemon", url, "--against", str(base)]) == 5
    dead = f"http://127.0.0.1:{free_port()}"
    assert main(["prove", "plain", "--daemon", dead, "--against", str(base)]) == 3


def test_tokens_of_a_text_and_back(url: str) -> None:
    body = {"model": "plain", "content": "can i return my lamp"}
    ids = httpx.post(f"{url}/api/tokenize", json=body).json()["tokens"]
    assert ids and all(isinstance(number, int) for number in ids)
    pieces = httpx.post(f"{url}/v1/tokenize", json={**body, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    back = httpx.post(f"{url}/detokenize", json={"model": "plain", "tokens": ids}).json()
    assert back == {"content": "can i return my lamp"}


def test_adapters_by_name_answer_as_models_of_their_own_would(
    url: str, base: Path, gguf: Path, home: Home, tmp_path: Path
) -> None:
    """Each of three answers, alone and in turns on one worker, is the same to the letter."""
    torch.manual_seed(1)
    for number, name in enumerate(("one", "two")):
        made = peft_adapter(base, tmp_path / f"peft-{name}", lora_alpha=8 + 24 * number)
        convert_adapter(made, tmp_path / name, base=base, home=home)
        adapter = tmp_path / name / "adapter.gguf"
        text = f"FROM plain\nADAPTER {adapter}\nPARAMETER temperature 0"
        create_model(name, text, home=home)
    names = ["plain", "plain+one", "plain+two"]
    alone = {}
    for name in names:
        httpx.post(f"{url}/api/generate", json={"model": name, "keep_alive": 0})
        time.sleep(0.3)
        alone[name] = answer(url, name)
    assert len(set(alone.values())) == 3
    for name in [*names, *reversed(names), "plain+one", "plain", "plain+one"]:
        assert answer(url, name) == alone[name], name
    assert answer(url, "one") == alone["plain+one"]


def test_a_client_that_leaves_frees_its_slot_within_200_ms(url: str, home: Home) -> None:
    body = {
        "model": "plain",
        "messages": [{"role": "user", "content": "tell"}],
        "options": {"num_predict": 100_000, "num_ctx": 100_000, "temperature": 1.5},
    }
    with httpx.Client(base_url=url, timeout=60) as http:
        times = []
        while not times or (
            min(times) >= 0.2 and len(times) < 10
        ):  # a busy machine gets more tries
            with http.stream("POST", "/api/chat", json=body) as stream:
                lines = stream.iter_lines()
                next(lines)
                assert active(http) == 1
            begun = time.monotonic()
            while active(http):
                assert time.monotonic() - begun < 10
                time.sleep(0.005)
            times.append(time.monotonic() - begun)
    assert min(times) < 0.2


def active(http: httpx.Client) -> int:
    return sum(model["active"] for model in http.get("/api/queue").json()["models"])


def test_a_long_talk_is_cut_by_whole_turns_and_told_with_the_engines_own_numbers(url: str) -> None:
    talk = []
    for number in range(30):
        talk.append({"role": "user", "content": f"can i return my lamp bought {number} days ago"})
        talk.append({"role": "assistant", "content": "yes, you can return the lamp."})
    talk.append({"role": "user", "content": "thank you"})
    body = {
        "model": "shop:q4",
        "messages": talk,
        "stream": False,
        "options": {"num_ctx": 256, "num_predict": 20},
    }
    # a context that only this request has: a larger one that is loaded would hold all of it
    refused = httpx.post(f"{url}/api/chat", json=body, timeout=60)
    assert refused.status_code == 400 and "holds 256" in refused.json()["error"]
    got = httpx.post(f"{url}/api/chat", json={**body, "truncate": True}, timeout=60).json()
    cut = got["truncated"]
    assert cut["messages"] % 2 == 0 and 0 < cut["messages"] <= 62
    found = re.search(r"has (\d+) tokens", refused.json()["error"])
    assert found and got["prompt_eval_count"] + cut["tokens"] == int(found[1])
    assert got["prompt_eval_count"] <= 236


def test_texts_embedded_together_are_as_each_alone(url: str) -> None:
    texts = ["where is my parcel", "can i return the lamp", "thank you", "yes, you can"]

    def embedded(given: list[str]) -> list[list[float]]:
        answer = httpx.post(f"{url}/api/embed", json={"model": "plain", "input": given}, timeout=60)
        found: list[list[float]] = answer.json()["embeddings"]
        return found

    alone = [embedded([text])[0] for text in texts]
    for one, other in zip(embedded(texts), alone, strict=True):
        assert sum(a * b for a, b in zip(one, other, strict=True)) > 0.9999
