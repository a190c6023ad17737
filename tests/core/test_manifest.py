from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipway.core.errors import ConflictError, InputError, NotFoundError
from slipway.core.manifest import (
    Setting,
    read_manifest,
    require_replaceable,
    verify_files,
    write_manifest,
)


def make(folder: Path, content: str = "weights") -> Path:
    folder.mkdir()
    (folder / "model.bin").write_text(content)
    return folder


def test_manifest_round_trips(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    written = write_manifest(
        folder,
        "merged",
        "a",
        parents={"run": "sha256:1"},
        config={"dtype": Setting("bf16", "default")},
        metrics={"kl": 0.1},
    )
    assert read_manifest(folder, kind="merged") == written


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    first = write_manifest(make(tmp_path / "a"), "merged", "a")
    second = write_manifest(make(tmp_path / "b"), "merged", "b", parents={"run": "other"})
    other = write_manifest(make(tmp_path / "c", "changed"), "merged", "c")
    assert first.digest == second.digest != other.digest


def test_flipped_content_of_the_same_size_is_found(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    manifest = write_manifest(folder, "merged", "a")
    assert verify_files(folder, manifest) == []
    (folder / "model.bin").write_text("wEights")
    assert verify_files(folder, manifest) == ["model.bin"]


def test_folder_without_manifest_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_manifest(make(tmp_path / "a"))


def test_artefact_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    write_manifest(folder, "gguf", "a")
    with pytest.raises(InputError) as caught:
        read_manifest(folder, kind="run")
    assert caught.value.code == "artefact.wrong_kind"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "cake"}'])
def test_damaged_manifest_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path / "a")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_manifest(folder)
    assert "manifest.json" in caught.value.message_en


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    write_manifest(folder, "gguf", "a")
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "cake"}))
    with pytest.raises(InputError):
        read_manifest(folder)


def test_what_is_missing_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_manifest(tmp_path, kind="run")
    assert "`slipway train RECIPE.yaml`" in caught.value.hint_en
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path, "merged", "m")
    with pytest.raises(InputError) as wrong:
        read_manifest(tmp_path, kind="gguf")
    assert "`slipway convert MODEL`" in wrong.value.hint_en


@pytest.mark.parametrize("make", ["file", "foreign", "other kind"])
def test_a_place_with_other_things_is_not_replaceable(tmp_path: Path, make: str) -> None:
    place = tmp_path / "place"
    require_replaceable(place, "gguf")
    if make == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        require_replaceable(place, "gguf")
        (place / "a").write_text("mine")
        if make == "other kind":
            write_manifest(place, "merged", "m")
            require_replaceable(place, "merged")
    with pytest.raises(ConflictError, match="would be lost"):
        require_replaceable(place, "gguf")
