from __future__ import annotations

from pathlib import Path

from slipway.core.manifest import write_manifest
from slipway.ship.artefacts import artefact, intact


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "weights").write_text("abc")
    write_manifest(folder, "merged", "m")
    return folder


def test_artefact_is_intact_until_a_file_is_lost_or_cut(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    outputs = {"tuned": artefact(folder), "note": "x"}
    assert intact(outputs)
    (folder / "weights").write_text("ab")
    assert not intact(outputs)
    (folder / "weights").unlink()
    assert not intact(outputs)


def test_artefact_that_was_made_anew_is_not_the_same(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    outputs = artefact(folder)
    (folder / "weights").write_text("xyz")
    write_manifest(folder, "merged", "m")
    assert not intact(outputs)


def test_missing_folder_is_not_intact(tmp_path: Path) -> None:
    assert not intact({"folder": str(tmp_path / "none"), "digest": "sha256:0"})
