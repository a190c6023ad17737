"""Smaller promises of the daemon: removed models, caches, templates of a request, languages."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import RunningDaemon

from slipway.cli.main import main
from slipway.client.daemon import DaemonClient
from slipway.core.errors import NotFoundError
from slipway.core.paths import Home
from slipway.store import create_model, remove_model
from slipway.testing.gguf import write_gguf


def load(http: httpx.Client, model: str) -> None:
    assert http.post("/api/generate", json={"model": model}).status_code == 200


def test_a_model_removed_by_another_process_leaves_the_memory(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    gguf = write_gguf(tmp_path / "gone.gguf", context_length=512)
    create_model("gone", f"FROM {gguf}", home=daemon.home)
    with daemon.client() as http:
        load(http, "gone")
        remove_model("gone", home=daemon.home)
        shown = http.get("/api/ps").json()["models"]
        assert [(row["name"], row["digest"]) for row in shown] in ([("gone:latest", "")], [])
        until = time.monotonic() + 30
        while http.get("/api/ps").json()["models"] and time.monotonic() < until:
            time.sleep(0.1)
        assert http.get("/api/ps").json()["models"] == []


def test_a_name_that_is_gone_is_still_shown_while_its_weights_are_in_use(
    daemon: RunningDaemon, shop: str
) -> None:
    with daemon.client() as http:
        http.post("/api/copy", json={"source": shop, "destination": "twin"})
        load(http, "twin")
        remove_model("twin", home=daemon.home)
        (row,) = http.get("/api/ps").json()["models"]
        assert (row["name"], row["digest"]) == ("twin:latest", "")
        assert row["size"] > 0


def test_metrics_tell_how_many_tokens_the_caches_hold(http: httpx.Client) -> None:
    http.post("/api/generate", json={"model": "shop:q4", "prompt": "one two", "stream": False})
    lines = http.get("/metrics").text.splitlines()
    (line,) = [x for x in lines if x.startswith("slipway_model_kv_cache_tokens{")]
    assert line == 'slipway_model_kv_cache_tokens{model="shop:q4"} 4.0'  # with "Be short."


def test_a_template_of_the_request_replaces_the_models(http: httpx.Client) -> None:
    body = {
        "model": "shop:q4",
        "prompt": "lamp",
        "system": "S",
        "template": "{{ .System }}|{{ .Prompt }}|",
        "stream": False,
    }
    assert http.post("/api/generate", json=body).json()["response"] == "echo: S|lamp|"


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{{ if }}", "template"), ("{% for m in messages %}{% endfor %}", "Jinja")],
)
def test_a_template_that_cannot_be_read_is_refused(
    http: httpx.Client, template: str, reason: str
) -> None:
    body = {"model": "shop:q4", "prompt": "x", "template": template}
    answer = http.post("/api/generate", json=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_errors_reach_chinese_readers_in_chinese(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = httpx.post(f"{daemon.url}/api/show", json={"model": "no"}).json()
    assert set(plain) <= {"error", "code", "hint"}  # Ollama's clients see what they always saw
    monkeypatch.setenv("SLIPWAY_LANG", "zh")
    with DaemonClient(daemon.url) as client, pytest.raises(NotFoundError) as caught:
        client.show("no")
    assert "没有" in str(caught.value.message) or "找不到" in str(caught.value.message)
    told = httpx.post(
        f"{daemon.url}/api/show", json={"model": "no"}, headers={"Accept-Language": "zh-CN,zh"}
    ).json()
    assert told["error"] == plain["error"]
    assert told["local"]["error"] == str(caught.value.message)


def test_a_modelfile_may_come_through_a_pipe(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os
    import threading

    write_gguf(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    pipe = tmp_path / "elsewhere" / "pipe"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("FROM ./m.gguf\nSYSTEM piped\n"))
    writer.start()
    assert main(["create", "piped", "-f", str(pipe), "--json"]) == 0, capsys.readouterr().err
    writer.join()
    assert json.loads(capsys.readouterr().out)["name"] == "piped:latest"
