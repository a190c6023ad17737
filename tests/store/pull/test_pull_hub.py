from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import (
    AuthError,
    InputError,
    NotFoundError,
    ProofError,
    SlipwayError,
    UnreachableError,
    UsageError,
)
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.paths import Home
from slipway.datasets import load_tokenizer
from slipway.store.pull import base_folder, pull_base
from slipway.testing.fake_hub import COMMIT, FakeHub

EVERY_HUB = pytest.mark.parametrize("scheme", ["hf", "ms"])
WANTED = {
    "chat_template.jinja",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def nothing_left(home: Home) -> bool:
    return not home.bases.exists() or not [p for p in home.bases.iterdir() if p.is_dir()]


@EVERY_HUB
def test_a_model_is_fetched_verified_and_recorded(hub: FakeHub, home: Home, scheme: str) -> None:
    seen: list[tuple[int, int | None]] = []
    told: list[dict[str, Any]] = []
    events = EventLog(None, told.append)
    folder = pull_base(
        f"{scheme}://org/model",
        home=home,
        events=events,
        on_progress=lambda *both: seen.append(both),
    )
    assert folder == home.bases / "org--model" == base_folder(f"{scheme}://org/model", home)
    assert {p.name for p in folder.iterdir()} == WANTED | {"manifest.json"}
    manifest = read_manifest(folder, kind="base")
    assert verify_files(folder, manifest) == []
    assert manifest.notes["hub"] == scheme
    assert manifest.notes["model"] == "org/model"
    assert manifest.notes["revision"] == (COMMIT if scheme == "hf" else "master")
    assert load_tokenizer(folder).chat_template
    total = sum(len(hub.model[name]) for name in WANTED)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert told[-1]["type"] == "artefact"
    assert told[-1]["digest"] == manifest.digest


def test_what_is_there_is_returned_without_a_request(hub: FakeHub, home: Home) -> None:
    first = pull_base("org/model", home=home)
    hub.asked.clear()
    hub.status = 500
    assert pull_base("org/model", home=home) == first
    assert pull_base("ms://org/model", home=home, offline=True, verify=True) == first
    assert hub.asked == {}


def test_a_file_that_lost_bytes_is_fetched_again(hub: FakeHub, home: Home) -> None:
    folder = pull_base("org/model", home=home)
    (folder / "model.safetensors").write_bytes(b"short")
    pull_base("org/model", home=home)
    assert (folder / "model.safetensors").read_bytes() == hub.model["model.safetensors"]


def test_verify_finds_a_changed_byte_and_says_how_to_go_on(hub: FakeHub, home: Home) -> None:
    folder = pull_base("org/model", home=home)
    data = hub.model["model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"X" + data[1:])
    assert pull_base("org/model", home=home) == folder  # sizes only
    with pytest.raises(ProofError, match=r"model\.safetensors"):
        pull_base("org/model", home=home, verify=True)


@EVERY_HUB
def test_a_cut_connection_is_resumed_where_it_broke(hub: FakeHub, home: Home, scheme: str) -> None:
    hub.cut_once["model.safetensors"] = 300_000
    folder = pull_base(f"{scheme}://org/model", home=home)
    assert (folder / "model.safetensors").read_bytes() == hub.model["model.safetensors"]
    assert hub.asked["model.safetensors"] == ["", "bytes=300000-"]


def test_a_killed_pull_goes_on_and_fetches_nothing_twice(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill_late(done: int, total: int | None) -> None:
        if done > 500_000:
            raise Killed

    with pytest.raises(Killed):
        pull_base("hf://org/model", home=home, on_progress=kill_late)
    assert nothing_left(home)
    hub.asked.clear()
    pull_base("hf://org/model", home=home)
    assert set(hub.asked) == {"model.safetensors"}
    (wanted,) = hub.asked["model.safetensors"]
    assert int(wanted.removeprefix("bytes=").rstrip("-")) > 0


@EVERY_HUB
@pytest.mark.parametrize("path", ["model.safetensors", "tokenizer.json"])
def test_a_wrong_digest_is_refused_and_nothing_is_left(
    hub: FakeHub, home: Home, scheme: str, path: str
) -> None:
    hub.spoiled.add(path)
    with pytest.raises(ProofError) as caught:
        pull_base(f"{scheme}://org/model", home=home)
    assert caught.value.code == "download.wrong_digest"
    assert nothing_left(home)
    hub.spoiled.clear()
    assert pull_base(f"{scheme}://org/model", home=home).is_dir()


@EVERY_HUB
def test_a_file_without_a_stated_digest_is_refused(hub: FakeHub, home: Home, scheme: str) -> None:
    hub.undigested.add("model.safetensors")
    with pytest.raises(ProofError, match="no digest"):
        pull_base(f"{scheme}://org/model", home=home)
    assert nothing_left(home)


def test_shards_are_taken_and_a_second_layout_is_not(hub: FakeHub, home: Home) -> None:
    data = hub.model.pop("model.safetensors")
    shards = {f"model-0000{i}-of-00002.safetensors": data + bytes([i]) for i in (1, 2)}
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    hub.model |= shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    hub.model["consolidated.safetensors"] = data
    folder = pull_base("hf://org/model", home=home)
    assert {p.name for p in folder.glob("*.safetensors")} == set(shards)


def test_the_pooling_of_an_embedding_model_is_taken(hub: FakeHub, home: Home) -> None:
    hub.model["1_Pooling/config.json"] = b"{}"
    assert (pull_base("ms://org/model", home=home) / "1_Pooling" / "config.json").is_file()


def test_a_model_without_safetensors_is_refused(hub: FakeHub, home: Home) -> None:
    del hub.model["model.safetensors"]
    with pytest.raises(InputError) as caught:
        pull_base("hf://org/model", home=home)
    assert caught.value.code == "pull.no_safetensors"


@pytest.mark.parametrize("path", ["../evil.json", "/etc/evil.json", "a/../../evil.json"])
@EVERY_HUB
def test_a_path_that_leaves_the_folder_is_refused(
    hub: FakeHub, home: Home, scheme: str, path: str
) -> None:
    hub.model[path] = b"{}"
    with pytest.raises(InputError, match=r"evil\.json"):
        pull_base(f"{scheme}://org/model", home=home)
    assert nothing_left(home)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthError), (403, AuthError), (503, UnreachableError)]
)
def test_refusals_of_a_hub_have_their_own_errors(
    hub: FakeHub, home: Home, status: int, kind: type[SlipwayError]
) -> None:
    hub.status = status
    with pytest.raises(kind, match="org/model"):
        pull_base("hf://org/model", home=home)


def test_an_unknown_model_is_not_found_on_either_hub(hub: FakeHub, home: Home) -> None:
    with pytest.raises(NotFoundError, match="other/model"):
        pull_base("other/model", home=home)


def test_a_login_page_is_not_taken_for_a_hub(hub: FakeHub, home: Home) -> None:
    hub.page_of_login = True
    with pytest.raises(UnreachableError) as caught:
        pull_base("hf://org/model", home=home)
    assert caught.value.code == "pull.strange_answer"


@pytest.mark.parametrize(("language", "first"), [("zh", "ms"), ("en", "hf")])
def test_a_bare_name_asks_the_readers_hub_first_and_then_the_other(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch, language: str, first: str
) -> None:
    monkeypatch.setenv("SLIPWAY_LANG", language)
    folder = pull_base("org/model", home=home)
    assert read_manifest(folder).notes["hub"] == first
    monkeypatch.setenv(f"SLIPWAY_{first.upper()}_ENDPOINT", "http://127.0.0.1:9")
    (folder / "config.json").unlink()
    assert read_manifest(pull_base("org/model", home=home)).notes["hub"] != first


def test_too_little_space_is_said_before_a_byte_is_fetched(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    def nearly_full(_: Any) -> Any:
        return shutil._ntuple_diskusage(10, 9, 1)  # type: ignore[attr-defined]

    monkeypatch.setattr("slipway.store.pull.from_hub.shutil.disk_usage", nearly_full)
    with pytest.raises(SlipwayError) as caught:
        pull_base("hf://org/model", home=home)
    assert caught.value.code == "disk.full"
    assert hub.asked == {}


def test_offline_never_asks(hub: FakeHub, home: Home) -> None:
    with pytest.raises(UnreachableError, match="not to be used"):
        pull_base("org/model", home=home, offline=True)
    assert hub.asked == {}


@pytest.mark.parametrize("name", ["startre", "hf://model", "ms://a/b/c", "hf://../x", "a b"])
def test_a_wrong_name_is_a_usage_error(home: Home, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        pull_base(name, home=home)
    assert caught.value.code == "pull.bad_name"
    if name == "startre":
        assert "`starter`" in caught.value.hint_en


def test_a_missing_folder_is_not_found(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        pull_base(str(tmp_path / "nothing"), home=home)
