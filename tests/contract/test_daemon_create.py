"""/api/create and /api/blobs with the official client and the real tools."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from tests.contract.test_daemon_real import base as base
from tests.contract.test_daemon_real import gguf as gguf
from tests.contract.test_daemon_real import shared_tools as shared_tools
from tests.contract.test_daemon_real import tools as tools
from tests.contract.test_daemon_real import url as url
from tests.export.test_convert_adapter import peft_adapter

from slipway.core.gguf import read_gguf
from slipway.core.paths import Home
from slipway.store import resolve_model

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=url)
    yield client
    client._client.close()


def leftovers(home: Home) -> list[Path]:
    return [*home.models.glob(".create-*"), *(home.models / "blobs").glob(".tmp-*")]


def test_a_gguf_that_was_sent_becomes_a_model_that_answers(
    client: ollama.Client, gguf: Path, home: Home
) -> None:
    digest = client.create_blob(gguf)
    assert digest == "sha256:" + hashlib.sha256(gguf.read_bytes()).hexdigest()
    lines = client.create(
        model="sent:v1",
        files={"model.gguf": digest},
        system="Be brief.",
        parameters={"temperature": 0, "stop": ["<end>"]},
        license=["one", "two"],
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
        template="{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: ",
        stream=True,
    )
    told = [line.status or "" for line in lines]
    assert told[0] == "parsing GGUF" and told[-2:] == ["writing manifest", "success"]
    assert any(line.startswith("using existing layer sha256:") for line in told)
    shown = client.show("sent:v1")
    assert shown.modelinfo and "temperature" in (shown.parameters or "")
    model = resolve_model("sent:v1", home=home)
    assert (model.system, model.licenses) == ("Be brief.", ["one", "two"])
    answer = client.chat(
        "sent:v1", [{"role": "user", "content": "hello"}], options={"num_predict": 4}
    )
    assert answer.eval_count
    client.copy("sent:v1", "again")
    client.delete("sent:v1")
    assert [model.model for model in client.list().models if model.model == "again:latest"]
    assert leftovers(home) == []


@pytest.mark.parametrize("kind", ["q8_0", "Q5_0"])
def test_any_type_is_quantised_from_another_model(
    client: ollama.Client, home: Home, kind: str
) -> None:
    client.create(model="small", from_="plain", quantize=kind)
    assert read_gguf(resolve_model("small", home=home).gguf_path).file_type == kind.upper()
    assert client.show("small").details.quantization_level == kind.upper()  # type: ignore[union-attr]
    with pytest.raises(ollama.ResponseError, match="only supported for F16, BF16 and F32"):
        client.create(model="smaller", from_="small", quantize="Q4_0")
    with pytest.raises(ollama.ResponseError, match="Q9_K"):
        client.create(model="odd", from_="plain", quantize="Q9_K")


def test_a_model_folder_and_an_adapter_are_converted(
    client: ollama.Client, base: Path, home: Home, tmp_path: Path
) -> None:
    files = {path.name: client.create_blob(path) for path in base.iterdir() if path.is_file()}
    told = [line.status for line in client.create(model="folder", files=files, stream=True)]
    assert told[0] == "converting model" and told[-1] == "success"
    assert client.generate("folder", "hi", options={"num_predict": 2}).eval_count
    adapter = peft_adapter(base, tmp_path / "peft")
    parts = {
        name: client.create_blob(adapter / name)
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    client.create(model="tuned", files=files, adapters=parts)
    tuned = resolve_model("tuned", home=home)
    assert len(tuned.adapter_paths) == 1
    plain = client.generate("folder", "hi", options={"num_predict": 12, "temperature": 0})
    other = client.generate("tuned", "hi", options={"num_predict": 12, "temperature": 0})
    assert plain.response != other.response
    assert leftovers(home) == []


def test_a_client_that_leaves_stops_the_conversion_and_leaves_nothing(
    client: ollama.Client, url: str, base: Path, home: Home
) -> None:
    files = {path.name: client.create_blob(path) for path in base.iterdir() if path.is_file()}
    with (
        httpx.Client(base_url=url, timeout=30) as http,
        http.stream("POST", "/api/create", json={"model": "gone", "files": files}) as stream,
    ):
        assert json.loads(next(stream.iter_lines()))["status"] == "converting model"
    deadline = time.monotonic() + 10
    while leftovers(home):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not any("convert" in line for line in children())
    with pytest.raises(ollama.ResponseError):
        client.show("gone")


def children() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "slipway convert" in line and int(entry.name) != os.getpid():
                found.append(line)
    return found


def test_blobs_are_taken_only_when_their_digest_is_right(url: str, home: Home) -> None:
    data = b"x" * 100_000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    other = "sha256:" + "0" * 64
    with httpx.Client(base_url=url) as http:
        assert http.head(f"/api/blobs/{digest}").status_code == 404
        wrong = http.post(f"/api/blobs/{other}", content=data)
        assert wrong.status_code == 400
        assert wrong.json()["error"] == f'digest mismatch, expected "{other}", got "{digest}"'
        assert http.post(f"/api/blobs/{digest}", content=data).status_code == 201
        assert http.post(f"/api/blobs/{digest}", content=data).status_code == 200
        assert http.head(f"/api/blobs/{digest}").status_code == 200
        assert http.post("/api/blobs/sha256:..%2f..%2fx", content=b"").status_code in (400, 404)
        assert http.head("/api/blobs/nonsense").status_code == 400
    assert leftovers(home) == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "model is required"),
    ({"model": "x"}, "neither 'from' or 'files' was specified"),
    ({"model": "a b", "from": "plain"}, "not a valid model name"),
    ({"model": "x", "from": "nope"}, "nope"),
    ({"model": "x", "files": {"a": "sha256:" + "1" * 64}}, "is not there"),
    ({"model": "x", "files": {"../a": "sha256:" + "1" * 64}}, "not the name of a file"),
    ({"model": "x", "files": {"/etc/passwd": "sha256:" + "1" * 64}}, "not the name of a file"),
    ({"model": "x", "files": {"a": "../../etc/passwd"}}, "not a sha256 digest"),
    ({"model": "x", "from": "/etc/passwd"}, "not a valid model name"),
    ({"model": "x", "from": "plain", "parameters": {"nope": 1}}, "unknown parameter"),
    ({"model": "x", "from": "plain", "parameters": {"top_k": "a"}}, "must be of type int"),
    ({"model": "x", "from": "plain", "messages": [{"role": "x"}]}, "message role"),
    ({"model": "x", "from": "plain", "adapters": {"a": "1", "b": "2"}}, "only one adapter"),
    ({"model": "x", "from": "plain", "template": "{{ range }}"}, "TEMPLATE"),
]


def test_a_bad_request_is_refused_and_makes_nothing(url: str, home: Home) -> None:
    for body, error in BAD:
        answer = httpx.post(f"{url}/api/create", json=body)
        told = answer.json()["error"] if answer.status_code != 200 else answer.text
        assert error in told, body
        assert httpx.post(f"{url}/api/show", json={"model": "x"}).status_code == 404
        assert leftovers(home) == []
    for path in ("/api/me", "/api/signout", "/api/experimental/web_search"):
        answer = httpx.post(f"{url}{path}")
        assert answer.status_code == 403 and "no accounts" in answer.json()["error"]
    assert httpx.get(f"{url}/api/status").json()["cloud"]["disabled"] is True
