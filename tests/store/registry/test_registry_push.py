from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.core.errors import AuthError, NotFoundError
from slipway.core.paths import Home
from slipway.store import copy_model, create_model, resolve_model
from slipway.store.registry import TransferRules, pull_model, push_model
from slipway.testing.fake_registry import FakeRegistry, fake_registry
from slipway.testing.gguf import write_gguf

RULES = TransferRules(pause_s=0.01)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, registry: FakeRegistry) -> Home:
    """A store with the model `<registry>/team/shop:q4`."""
    home = Home(tmp_path / "home")
    gguf = write_gguf(tmp_path / "shop.gguf")
    create_model("shop:q4", f"FROM {gguf}\nSYSTEM Be short.", home=home)
    copy_model("shop:q4", f"{registry.host}/team/shop:q4", home=home)
    return home


def push(registry: FakeRegistry, home: Home, name: str = "team/shop:q4") -> list[dict[str, object]]:
    url = f"http://{registry.host}/{name}"
    return list(push_model(url, home=home, insecure=True, rules=RULES))


@pytest.mark.parametrize("docker", [False, True])
def test_what_was_pushed_can_be_pulled_elsewhere(
    registry: FakeRegistry, home: Home, tmp_path: Path, docker: bool
) -> None:
    registry.docker_location = docker
    lines = push(registry, home)
    assert [line["status"] for line in lines[-2:]] == ["pushing manifest", "success"]
    assert lines[0] == {"status": "retrieving manifest"}
    ours = resolve_model("shop:q4", home=home)
    assert {layer.digest for layer in ours.all_layers} == set(registry.blobs)
    whole = {"digest": ours.layers[0].digest, "total": ours.layers[0].size}
    word = f"pushing {ours.layers[0].digest[7:19]}"
    assert {"status": word, **whole, "completed": ours.layers[0].size} in lines
    other = Home(tmp_path / "other")
    list(pull_model(f"http://{registry.host}/team/shop:q4", home=other, insecure=True))
    theirs = resolve_model(f"{registry.host}/team/shop:q4", home=other)
    assert (theirs.digest, theirs.system) == (ours.digest, "Be short.")


def test_blobs_that_are_there_are_not_sent_again(registry: FakeRegistry, home: Home) -> None:
    push(registry, home)
    registry.asked.clear()
    push(registry, home)
    assert {method for method, _, _ in registry.asked} == {"HEAD", "PUT"}


def test_a_private_registry_takes_a_push_with_the_right_password_only(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.auth = "basic"
    with pytest.raises(AuthError):
        push(registry, home)
    assert registry.blobs == registry.manifests == {}
    entry = f'{{"{registry.host}": {{"user": "user", "password": "{registry.password}"}}}}'
    monkeypatch.setenv("SLIPWAY_REGISTRY_AUTH", entry)
    assert push(registry, home)[-1] == {"status": "success"}


def test_a_model_that_is_not_there_cannot_be_pushed(registry: FakeRegistry, home: Home) -> None:
    with pytest.raises(NotFoundError):
        push(registry, home, "team/other:q4")
    assert registry.asked == []
