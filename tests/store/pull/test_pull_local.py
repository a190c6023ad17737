from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError
from slipway.core.manifest import read_manifest, verify_files
from slipway.core.paths import Home
from slipway.store.pull import pull_base
from slipway.testing.tiny import tiny_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tiny_tokenizer(tmp_path / "mine")
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "notes.md").write_text("not the model", encoding="utf-8")
    return folder


def test_a_local_folder_is_registered_without_copying_its_weights(model: Path, home: Home) -> None:
    folder = pull_base(str(model), home=home)
    weights = folder / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == model / "model.safetensors"
    assert not (folder / "notes.md").exists()
    manifest = read_manifest(folder, kind="base")
    assert verify_files(folder, manifest) == []
    assert manifest.notes["source"] == str(model)
    assert pull_base(str(model), home=home) == folder


def test_a_change_of_the_source_is_seen_at_the_next_pull(model: Path, home: Home) -> None:
    before = read_manifest(pull_base(str(model), home=home)).digest
    (model / "model.safetensors").write_bytes(b"WEIGHTS")
    assert read_manifest(pull_base(str(model), home=home)).digest != before


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"w": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without("config.json"), "no config.json"),
        (without("model.safetensors"), "no weights"),
        (without("tokenizer.json"), "no tokenizer.json"),
        (lose_a_shard, "model-00002-of-00002"),
        (lambda folder: (folder / "config.json").write_text("{"), "model_type"),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_the_reason(
    model: Path, home: Home, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(model)
    with pytest.raises(InputError) as caught:
        pull_base(str(model), home=home)
    assert caught.value.code == "pull.unfit_folder"
    assert reason in caught.value.message_en
    assert not [p for p in home.bases.iterdir() if p.is_dir()]


def test_the_command_prints_the_folder_or_one_json_document(
    model: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", str(model)]) == 0
    printed = Path(capsys.readouterr().out.strip())
    assert printed.parent == home.bases
    assert main(["pull", str(model), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["path"] == str(printed)
    assert value["digest"] == read_manifest(printed).digest
    assert main(["pull", "startre"]) == 2
    assert "did you mean `starter`" in capsys.readouterr().err
