from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import (
    AuthError,
    NotFoundError,
    ProofError,
    SlipwayError,
    UnreachableError,
    UsageError,
)
from slipway.core.paths import Home
from slipway.store import list_models, remove_model, resolve_model, verify_model
from slipway.store.manifests import MODEL, SYSTEM, ManifestStore
from slipway.store.registry import TransferRules, pull_model, registry_name
from slipway.testing.fake_registry import FakeRegistry, digest_of, fake_registry

WEIGHTS = random.Random(7).randbytes(300_000)
SMALL = TransferRules(parts=4, least_bytes=50_000, most_bytes=100_000, stall_s=5, pause_s=0.01)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.add(
            "team/shop:q4", {MODEL: WEIGHTS, SYSTEM: b"Be brief."}, b'{"model_format":"gguf"}'
        )
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def pull(registry: FakeRegistry, home: Home, name: str = "team/shop:q4") -> list[dict[str, Any]]:
    url = f"http://{registry.host}/{name}"
    return list(pull_model(url, home=home, insecure=True, rules=SMALL))


def nothing_is_named(home: Home) -> bool:
    return not list_models(home)


def test_a_pulled_model_is_whole_and_told_in_ollamas_lines(
    registry: FakeRegistry, home: Home
) -> None:
    lines = pull(registry, home)
    model = resolve_model(f"{registry.host}/team/shop:q4", home=home)
    assert model.gguf_path.read_bytes() == WEIGHTS
    assert model.system == "Be brief."
    assert verify_model(str(model.name), home=home) == []
    digest = digest_of(WEIGHTS)
    first = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": len(WEIGHTS)}
    assert lines[:2] == [{"status": "pulling manifest"}, first]
    assert {**first, "completed": len(WEIGHTS)} in lines
    statuses = [line["status"] for line in lines]
    assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    assert sorted(path.name for path in (home.models / "blobs").iterdir()) == sorted(
        digest.replace(":", "-") for digest in registry.blobs
    )


def test_a_blob_comes_in_ranges_after_a_head(registry: FakeRegistry, home: Home) -> None:
    pull(registry, home)
    place = f"/v2/team/shop/blobs/{digest_of(WEIGHTS)}"
    asked = [(method, header) for method, path, header in registry.asked if path == place]
    assert asked[0] == ("HEAD", "")
    assert sorted(header for _, header in asked[1:]) == [
        "bytes=0-74999",
        "bytes=150000-224999",
        "bytes=225000-299999",
        "bytes=75000-149999",
    ]


def test_a_second_pull_fetches_only_the_manifest(registry: FakeRegistry, home: Home) -> None:
    pull(registry, home)
    registry.asked.clear()
    assert pull(registry, home)[-1] == {"status": "success"}
    assert [path for _, path, _ in registry.asked] == ["/v2/team/shop/manifests/q4"]


@pytest.mark.parametrize("faults", [[429], [429, 500, 503], [500] * 5])
def test_busy_answers_are_asked_again(
    registry: FakeRegistry, home: Home, faults: list[int]
) -> None:
    registry.faults = list(faults)
    assert pull(registry, home)[-1] == {"status": "success"}
    assert registry.faults == []


def test_broken_off_answers_go_on_where_they_broke(registry: FakeRegistry, home: Home) -> None:
    registry.cut_after, registry.cuts = 20_000, 6
    pull(registry, home)
    assert registry.cuts == 0
    assert registry.sent < len(WEIGHTS) + 1000  # nothing was sent twice


def test_a_server_without_ranges_is_enough(registry: FakeRegistry, home: Home) -> None:
    registry.ranges = False
    pull(registry, home)
    assert resolve_model(f"{registry.host}/team/shop:q4", home=home)


def test_wrong_bytes_never_get_the_name_and_are_fetched_again(
    registry: FakeRegistry, home: Home
) -> None:
    registry.spoiled.add(digest_of(WEIGHTS))
    with pytest.raises(ProofError, match="digest mismatch"):
        pull(registry, home)
    assert nothing_is_named(home)
    registry.spoiled.clear()
    assert pull(registry, home)[-1]["status"] == "success"


def test_a_registry_that_always_fails_is_given_up_and_leaves_no_name(
    registry: FakeRegistry, home: Home
) -> None:
    url = f"http://{registry.host}/team/shop:q4"
    steps = pull_model(url, home=home, insecure=True, rules=SMALL)
    with pytest.raises(UnreachableError, match="500"):
        for line in steps:
            if "total" in line:  # the manifest has come
                registry.faults = [500] * 1000
    assert nothing_is_named(home)


def test_plain_http_needs_the_insecure_flag(registry: FakeRegistry, home: Home) -> None:
    with pytest.raises(UsageError, match="insecure protocol http"):
        list(pull_model(f"http://{registry.host}/team/shop:q4", home=home))
    assert registry.asked == []


def test_an_unknown_model_is_not_found_as_ollama_says_it(
    registry: FakeRegistry, home: Home
) -> None:
    with pytest.raises(NotFoundError, match="pull model manifest: file does not exist"):
        pull(registry, home, "team/other:q4")


def test_a_manifest_cannot_name_files_outside_the_store(registry: FakeRegistry, home: Home) -> None:
    evil = json.loads(registry.manifests["team/shop:q4"])
    evil["layers"][0]["digest"] = "sha256:../../../../etc/passwd"
    registry.manifests["team/shop:q4"] = json.dumps(evil).encode()
    with pytest.raises(SlipwayError) as caught:
        pull(registry, home)
    assert caught.value.code == "registry.bad_manifest"


def login(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, **entry: str) -> None:
    monkeypatch.setenv("SLIPWAY_REGISTRY_AUTH", json.dumps({registry.host: entry}))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_challenge_is_answered_with_user_and_password(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    registry.auth = auth  # type: ignore[assignment]
    with pytest.raises(AuthError):
        pull(registry, home)
    login(registry, monkeypatch, user=registry.user, password=registry.password)
    assert pull(registry, home)[-1]["status"] == "success"


def test_a_token_is_sent_at_once(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.auth = "bearer"
    login(registry, monkeypatch, token=registry.token)
    pull(registry, home)
    assert "/token" not in {path for _, path, _ in registry.asked}


def test_a_challenge_that_leads_to_another_host_is_refused(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as thief:
        registry.auth, registry.realm = "bearer", f"http://{thief.host}/token"
        login(registry, monkeypatch, user=registry.user, password=registry.password)
        with pytest.raises(AuthError, match="another host"):
            pull(registry, home)
        assert thief.asked == []


def test_a_secret_belongs_to_one_host(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_REGISTRY_AUTH", '{"elsewhere.example": {"token": "secret"}}')
    pull(registry, home)
    assert registry.authorizations == []


def test_a_credentials_file_that_others_can_read_is_refused(
    registry: FakeRegistry, home: Home
) -> None:
    registry.auth = "basic"
    home.root.mkdir(parents=True)
    file = home.root / "registries.json"
    entry = {"user": registry.user, "password": registry.password}
    file.write_text(json.dumps({registry.host: entry}))
    file.chmod(0o644)
    with pytest.raises(AuthError, match="others can read"):
        pull(registry, home)
    file.chmod(0o600)
    assert pull(registry, home)[-1]["status"] == "success"


def test_a_damaged_credentials_text_is_not_repeated_in_the_error(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_REGISTRY_AUTH", '{"host": {"pass": "hush-hush"}}'[:-2])
    with pytest.raises(SlipwayError) as caught:
        pull(registry, home)
    assert "hush" not in str(caught.value) + str(caught.value.hint)


def test_a_closed_pull_goes_on_where_it_was(registry: FakeRegistry, home: Home) -> None:
    registry.bytes_per_s = 100_000
    name = f"http://{registry.host}/team/shop:q4"
    steps = pull_model(name, home=home, insecure=True, rules=SMALL)
    for line in steps:
        if line.get("completed", 0) >= 100_000:
            break
    steps.close()  # type: ignore[attr-defined]
    assert nothing_is_named(home)
    registry.bytes_per_s = 0
    registry.asked.clear()
    pull(registry, home)
    place = f"/v2/team/shop/blobs/{digest_of(WEIGHTS)}"
    ranges = [r[6:].split("-") for method, path, r in registry.asked if path == place and r]
    assert ranges
    assert sum(int(last) + 1 - int(first) for first, last in ranges) <= len(WEIGHTS) - 100_000


def test_a_pull_killed_at_any_time_leaves_no_name_and_goes_on(
    registry: FakeRegistry, home: Home
) -> None:
    weights = random.Random(3).randbytes(6_000_000)
    registry.add("team/big:q4", {MODEL: weights})
    registry.bytes_per_s = 4_000_000
    name = f"http://{registry.host}/team/big:q4"
    program = (
        "import sys; from pathlib import Path; from slipway.core.paths import Home;"
        "from slipway.store.registry import pull_model;"
        f"[None for _ in pull_model({name!r}, home=Home(Path(sys.argv[1])), insecure=True)]"
    )
    for _ in range(3):
        before = registry.sent
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(home.root)], env={**os.environ}
        )
        while registry.sent < before + 1_500_000 and child.poll() is None:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert nothing_is_named(home)
    registry.bytes_per_s = 0
    pull(registry, home, "team/big:q4")
    assert (
        resolve_model(f"{registry.host}/team/big:q4", home=home).gguf_path.read_bytes() == weights
    )
    # what a kill costs is at most what had not been noted and what was on its way
    assert registry.sent < 2 * len(weights)
    assert not list(ManifestStore(home.models).blobs.folder.glob("*partial*"))


def test_several_pulls_of_one_model_at_once_fetch_it_once(
    registry: FakeRegistry, home: Home
) -> None:
    registry.bytes_per_s = 300_000
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: pull(registry, home)[-1], range(4)))
    assert results == [{"status": "success"}] * 4
    assert registry.sent < len(WEIGHTS) + 1000
    assert not list(ManifestStore(home.models).blobs.folder.glob("*partial*"))


def test_a_removal_during_a_pull_costs_a_blob_and_never_the_name(
    registry: FakeRegistry, home: Home
) -> None:
    pull(registry, home)
    shared = f"{registry.host}/team/shop:q4"
    registry.add("team/two:q4", {MODEL: WEIGHTS, SYSTEM: b"Another."})
    url = f"http://{registry.host}/team/two:q4"
    for line in pull_model(url, home=home, insecure=True, rules=SMALL):
        if line["status"] == "verifying sha256 digest" and list_models(home):
            remove_model(shared, home=home)  # the weights were found here a moment ago
    model = resolve_model(f"{registry.host}/team/two:q4", home=home)
    assert verify_model(str(model.name), home=home) == []


def test_the_store_may_lie_elsewhere(
    registry: FakeRegistry, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_MODELS", str(tmp_path / "ollama"))
    pull(registry, home)
    assert (tmp_path / "ollama" / "manifests" / registry.host / "team/shop/q4").is_file()
    assert not home.root.exists()


def test_blobs_from_another_host_are_fetched_without_our_secret(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_registry() as storage:
        storage.blobs, storage.gets_only = registry.blobs, True
        registry.storage, registry.auth = storage.host, "basic"
        login(registry, monkeypatch, user=registry.user, password=registry.password)
        assert pull(registry, home)[-1] == {"status": "success"}
        assert storage.sent >= len(WEIGHTS)
        assert storage.authorizations == []


@pytest.mark.parametrize(
    ("name", "variable"),
    [("hf.co/team/shop:q4", "SLIPWAY_HF_ENDPOINT"), ("ms://team/shop:q4", "SLIPWAY_MS_ENDPOINT")],
)
def test_hubs_are_asked_in_the_registry_protocol_at_their_mirror(
    registry: FakeRegistry, home: Home, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://{registry.host}")
    lines = list(pull_model(name, home=home, insecure=True, rules=SMALL))
    assert lines[-1] == {"status": "success"}
    assert resolve_model(registry_name(name), home=home).gguf_path.read_bytes() == WEIGHTS


def test_a_waiting_pull_leaves_the_notes_of_the_running_one_alone(
    registry: FakeRegistry, home: Home
) -> None:
    registry.bytes_per_s = 50_000
    url = f"http://{registry.host}/team/shop:q4"
    running, waiting = (pull_model(url, home=home, insecure=True, rules=SMALL) for _ in "ab")
    assert any(line.get("completed") for line in running)
    notes = sorted(ManifestStore(home.models).blobs.folder.glob("*-partial-[0-9]"))
    assert [note.name[-1] for note in notes] == ["0", "1", "2", "3"]
    notes[0].unlink()  # what the other sees for a moment is not a whole division
    assert any("completed" in line for line in waiting)
    waiting.close()  # type: ignore[attr-defined]
    assert all(note.exists() for note in notes[1:])
    registry.bytes_per_s = 0
    assert list(running)[-1] == {"status": "success"}
