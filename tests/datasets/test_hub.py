"""Datasets of a hub, from a fake one: fetched once, verified, read offline afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import AuthError, NotFoundError, ProofError, SlipwayError, UnreachableError
from slipway.core.paths import Home
from slipway.datasets import open_samples
from slipway.datasets.hub import hub_dataset
from slipway.datasets.hub_files import Choice
from slipway.datasets.registry import find_dataset
from slipway.datasets.source import DataSource
from slipway.testing.fake_hub import COMMIT, FakeHub, serving

TOKEN = "hf_secret"


def lines(*questions: str) -> bytes:
    rows = [{"instruction": q, "input": "", "output": "a"} for q in questions]
    return "\n".join(map(json.dumps, rows)).encode()


FILES = {
    "README.md": b"---\nlicense: mit\n---\n# words",
    "train.jsonl": lines("one", "two"),
    "test.jsonl": lines("three"),
    "small.txt": b"not of the commonest type",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the dataset `org/set`; every way to the network leads to it."""
    with serving(FakeHub(datasets={"org/set": dict(FILES)})) as served:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith(("HF_", "MODELSCOPE", "USE_")):
                monkeypatch.delenv(name)
        for name in ("SLIPWAY_HF_ENDPOINT", "SLIPWAY_MS_ENDPOINT"):
            monkeypatch.setenv(name, served.url)
        yield served


EVERY_HUB = pytest.mark.parametrize("name", ["hf", "ms"])


def asked(info: str | Path, name: str = "org/set") -> list[str]:
    stream = open_samples([DataSource(path=name, info=str(info))])
    return [sample.messages[0].content for sample in stream]


def register(where: Path, **entry: Any) -> Path:
    (where / "dataset_info.json").write_text(json.dumps({"set": entry}), "utf-8")
    return where


@EVERY_HUB
def test_a_dataset_is_fetched_once_and_then_read_without_the_hub(
    hub: FakeHub, home: Home, tmp_path: Path, name: str
) -> None:
    register(tmp_path, **{f"{name}_hub_url": "org/set"})
    assert asked(tmp_path, "set") == ["one", "two"]
    assert "test.jsonl" not in hub.asked  # what is not wanted is not fetched
    hub.asked.clear()
    hub.status = 500
    assert asked(tmp_path, "set") == ["one", "two"]
    assert hub.asked == {}
    with pytest.raises(UnreachableError):  # another split was never asked for
        asked(register(tmp_path, **{f"{name}_hub_url": "org/set", "split": "test"}), "set")


def test_online_names_are_ids_and_the_environment_chooses_the_hub(
    hub: FakeHub, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked("ONLINE") == ["one", "two"]
    folders = [path.name for path in (home.cache / "datasets").iterdir()]
    assert folders == ["hf--org--set"]
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert asked("ONLINE") == ["one", "two"]
    assert (home.cache / "datasets" / "ms--org--set").is_dir()


@pytest.mark.parametrize(("use", "wanted"), [("0", "hf"), ("true", "ms")])
def test_of_two_hubs_the_environment_chooses(
    hub: FakeHub,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
    wanted: str,
) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", use)
    register(tmp_path, hf_hub_url="org/set", ms_hub_url="org/set")
    assert asked(tmp_path, "set") == ["one", "two"]
    assert [p.name for p in (home.cache / "datasets").iterdir()] == [f"{wanted}--org--set"]


def test_a_registry_on_the_hub_and_files_beside_it(hub: FakeHub) -> None:
    entries = {"there": {"hf_hub_url": "org/set"}, "beside": {"file_name": "mine.json"}}
    hub.datasets["org/names"] = {
        "dataset_info.json": json.dumps(entries).encode(),
        "mine.json": lines("mine"),
    }
    assert asked("REMOTE:org/names", "there") == ["one", "two"]
    assert asked("REMOTE:org/names", "beside") == ["mine"]
    with pytest.raises(NotFoundError, match="org/names"):
        asked("REMOTE:org/names", "no")
    with pytest.raises(NotFoundError, match=r"dataset_info\.json"):
        asked("REMOTE:org/set", "there")


def test_folder_subset_and_revision_are_obeyed(hub: FakeHub, tmp_path: Path) -> None:
    hub.datasets["org/set"] |= {
        "README.md": b"---\nconfigs:\n- config_name: zh\n  data_files: zh.jsonl\n---\n",
        "zh.jsonl": lines("zh"),
        "sub/x.jsonl": lines("sub"),
    }
    register(tmp_path, hf_hub_url="org/set", subset="zh", revision="v1")
    assert asked(tmp_path, "set") == ["zh"]
    assert asked(register(tmp_path, hf_hub_url="org/set", folder="sub"), "set") == ["sub"]
    with pytest.raises(NotFoundError):
        asked(register(tmp_path, hf_hub_url="org/set", revision="v2"), "set")


@EVERY_HUB
def test_a_broken_download_goes_on_where_it_was(hub: FakeHub, name: str) -> None:
    hub.cut_once["train.jsonl"] = 20
    seen: list[tuple[str, int, int]] = []
    (file,) = hub_dataset(name, "org/set", Choice(), on_fetch=lambda *s: seen.append(s))  # type: ignore[arg-type]
    assert file.read_bytes() == FILES["train.jsonl"]
    assert hub.asked["train.jsonl"] == ["", "bytes=20-"]
    total = len(FILES["train.jsonl"])
    assert seen[-1] == ("org/set", total, total)


@EVERY_HUB
def test_spoiled_bytes_are_never_used(hub: FakeHub, home: Home, name: str) -> None:
    hub.spoiled.add("train.jsonl")
    with pytest.raises(ProofError):
        hub_dataset(name, "org/set", Choice())  # type: ignore[arg-type]
    hub.spoiled.clear()
    (file,) = hub_dataset(name, "org/set", Choice())  # type: ignore[arg-type]
    assert file.read_bytes() == FILES["train.jsonl"]


def test_without_a_digest_the_size_must_be_right(hub: FakeHub) -> None:
    hub.undigested.add("train.jsonl")
    (file,) = hub_dataset("ms", "org/set", Choice())
    assert file.read_bytes() == FILES["train.jsonl"]


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(hub: FakeHub) -> None:
    (file,) = hub_dataset("hf", "org/set", Choice())
    file.write_bytes(b"short")
    assert hub_dataset("hf", "org/set", Choice()) == (file,)
    assert file.read_bytes() == FILES["train.jsonl"]


def test_a_new_version_on_the_hub_leaves_what_was_fetched_as_it_is(hub: FakeHub) -> None:
    (old,) = hub_dataset("hf", "org/set", Choice())
    hub.datasets["org/set"]["train.jsonl"] = lines("changed")
    assert hub_dataset("hf", "org/set", Choice()) == (old,)
    (new,) = hub_dataset("hf", "org/set", Choice(), revision="main")
    assert new.read_bytes() == lines("changed")
    assert old.read_bytes() == FILES["train.jsonl"]


@EVERY_HUB
def test_a_private_dataset_wants_a_token_that_no_message_shows(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, home: Home, name: str
) -> None:
    hub.token = TOKEN
    variable = {"hf": "HF_TOKEN", "ms": "MODELSCOPE_API_TOKEN"}[name]
    with pytest.raises(AuthError, match="org/set") as caught:
        hub_dataset(name, "org/set", Choice())  # type: ignore[arg-type]
    assert variable in caught.value.hint_en
    monkeypatch.setenv(variable, "wrong_" + TOKEN[3:])
    with pytest.raises(AuthError) as caught:
        hub_dataset(name, "org/set", Choice())  # type: ignore[arg-type]
    assert TOKEN[3:] not in str(caught.value.as_json())
    monkeypatch.setenv(variable, TOKEN)
    (file,) = hub_dataset(name, "org/set", Choice())  # type: ignore[arg-type]
    assert file.is_file()
    kept = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept


def test_a_token_is_not_sent_to_the_host_a_file_is_redirected_to(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token, hub.elsewhere = TOKEN, True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (file,) = hub_dataset("hf", "org/set", Choice())
    assert file.read_bytes() == FILES["train.jsonl"]
    assert hub.secrets and all(place.startswith("127.0.0.1") for place, _ in hub.secrets)
    assert any(f"resolve/{COMMIT}/train.jsonl" in place for place, _ in hub.secrets)


def test_faults_name_the_dataset(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="org/none"):
        asked("ONLINE", "org/none")
    with pytest.raises(SlipwayError, match="not the name of a dataset"):
        asked("ONLINE", "https://huggingface.co/datasets/org/set")
    hub.datasets["org/packed"] = {"train.jsonl.gz": b"x"}
    with pytest.raises(SlipwayError, match=r"train\.jsonl\.gz is compressed"):
        asked("ONLINE", "org/packed")
    hub.page_of_login = True
    with pytest.raises(UnreachableError, match="did not answer as a hub"):
        asked("ONLINE", "org/other")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE"):
        find_dataset("ONLINE", "org/set")


def test_modelscope_lists_more_files_than_one_page(hub: FakeHub) -> None:
    hub.datasets["org/many"] = {f"part{n:03}.jsonl": lines(str(n)) for n in range(150)}
    assert len(hub_dataset("ms", "org/many", Choice())) == 150
