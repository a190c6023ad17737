from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from slipway.cli.commands.pull import is_registry_name, pull
from slipway.cli.commands.push import push
from slipway.core.paths import Home
from slipway.store import copy_model, list_models
from slipway.store.manifests import MODEL
from slipway.store.registry import registry_name
from slipway.testing.fake_registry import fake_registry


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("starter", False),
        ("startr", False),
        ("ms://org/repo", False),
        ("hf://org/repo", False),
        ("org/repo", False),
        ("./folder", False),
        ("llama3.2", True),
        ("qwen2.5:0.5b", True),
        ("org/repo:q4", True),
        ("hf.co/org/repo", True),
        ("ms://org/repo:Q4_K_M", True),
        ("http://127.0.0.1:5000/team/shop", True),
    ],
)
def test_a_name_means_a_base_model_or_a_registrys(name: str, expected: bool) -> None:
    assert is_registry_name(name) is expected


def test_hubs_have_short_names() -> None:
    assert registry_name("hf://org/repo:Q4_0") == "hf.co/org/repo:Q4_0"
    assert registry_name("ms://org/repo:Q8_0") == "modelscope.cn/org/repo:Q8_0"
    assert registry_name("http://host/org/repo") == "http://host/org/repo"


def test_pull_and_push_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    with fake_registry() as registry:
        registry.add("team/shop:q4", {MODEL: b"GGUF" + bytes(1000)})
        url = f"http://{registry.host}/team/shop:q4"
        run = CliRunner().invoke(pull, [url, "--insecure", "--json"], catch_exceptions=False)
        told = json.loads(run.stdout)
        (model,) = list_models(Home.current())
        assert told["name"] == f"{registry.host}/team/shop:q4"
        assert (told["digest"], told["size_bytes"]) == (model.digest, model.size)
        copy_model(model.name.display, f"{registry.host}/team/two:q4", home=Home.current())
        second = f"http://{registry.host}/team/two:q4"
        run = CliRunner().invoke(push, [second, "--insecure"], catch_exceptions=False)
        assert "success" in run.stderr
        assert registry.manifests["team/two:q4"] == registry.manifests["team/shop:q4"]
