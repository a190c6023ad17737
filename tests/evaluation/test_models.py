from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.manifest import write_manifest
from slipway.core.paths import Home
from slipway.evaluation.generation import Generation
from slipway.evaluation.local import LocalModel
from slipway.evaluation.models import (
    find_model,
    key_from,
    served_model,
    unique_labels,
    with_baseline,
)
from slipway.evaluation.predictions import Prediction
from slipway.evaluation.questions import read_questions


def a_run(home: Home, base: Path, data: Path, *, whole: bool = False) -> Path:
    folder = home.runs / "mine"
    inside = folder / ("model" if whole else "adapter")
    inside.mkdir(parents=True)
    name = "config.json" if whole else "adapter_config.json"
    (inside / name).write_text("{}")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": str(data)}))
    write_manifest(
        folder,
        "run",
        "mine",
        files=[f"{inside.name}/{name}"],
        parents={"base": "sha256:b", "dataset": "sha256:d"},
        notes={"base_path": str(base)},
    )
    return folder


def test_a_run_is_its_adapter_on_its_base_with_its_lineage(
    home: Home, models: Path, rows: Path
) -> None:
    a_run(home, models / "one", rows)
    model = find_model("mine", home)
    assert (model.kind, model.path, model.label) == ("adapter", models / "one", "mine")
    assert model.data == rows and model.parents["dataset"] == "sha256:d"
    base, tuned = with_baseline([model])
    assert tuned is model and base.label == "base" and base.path == models / "one"
    assert base.digest == find_model(str(models / "one"), home).digest


def test_a_fully_trained_run_is_its_model(home: Home, models: Path, rows: Path) -> None:
    folder = a_run(home, models / "one", rows, whole=True)
    model = find_model("mine", home)
    assert model.kind == "folder" and model.path == folder / "model"
    assert with_baseline([model])[0].path == models / "one"


def test_a_template_beside_the_adapter_is_used_for_its_base_too(
    home: Home, models: Path, rows: Path, tmp_path: Path
) -> None:
    base = tmp_path / "bare"
    shutil.copytree(models / "one", base)
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    folder = a_run(home, base, rows)
    (folder / "adapter" / "chat_template.jinja").write_text(template)
    first = with_baseline([find_model("mine", home)])[0]
    assert first.template == folder / "adapter" / "chat_template.jinja"
    bare = find_model(str(base), home)
    question = read_questions(rows).questions[:1]
    with pytest.raises(InputError, match="chat template"):
        LocalModel(bare).answer(question, Generation(2), 0, print)
    for local in (LocalModel(first), LocalModel(bare, template="chatml")):
        given: list[Prediction] = []
        local.answer(question, Generation(2), 0, given.append)
        assert given[0].prompt_tokens


def test_a_merged_model_finds_its_base_by_its_digest(home: Home, models: Path) -> None:
    shutil.copytree(models / "one", home.bases / "pulled")
    base = write_manifest(home.bases / "pulled", "base", "pulled")
    shutil.copytree(models / "two", home.artefacts / "merged")
    parents = {"run": "sha256:r", "base": base.digest}
    write_manifest(home.artefacts / "merged", "merged", "merged", parents=parents)
    found = with_baseline([find_model("merged", home)])
    assert [model.path for model in found] == [home.bases / "pulled", home.artefacts / "merged"]
    assert found[0].digest == base.digest
    shutil.rmtree(home.bases / "pulled")
    assert len(with_baseline([find_model("merged", home)])) == 1
    given = with_baseline([find_model("merged", home, base=models / "one")])
    assert given[0].path == models / "one"


def test_a_lost_base_is_named_and_can_be_given(home: Home, models: Path, rows: Path) -> None:
    a_run(home, home.root / "gone", rows)
    with pytest.raises(NotFoundError) as error:
        find_model("mine", home)
    assert "--base" in error.value.hint_en
    assert find_model("mine", home, base=models / "two").path == models / "two"


def test_a_peft_folder_without_manifest_finds_its_base(
    home: Home, models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": str(models / "one")}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = find_model(str(folder), home)
    assert model.kind == "adapter" and model.path == models / "one" and model.adapter == folder


def test_gguf_files_served_names_and_labels(home: Home, models: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert (find_model(str(path), home).kind, find_model(f"q={path}", home).label) == ("gguf", "q")
    assert find_model(str(tmp_path), home).path == path  # the only one in its folder
    served = find_model("kefu:latest", home, daemon="http://127.0.0.1:1/v1/")
    assert (served.kind, served.url, served.name) == (
        "endpoint",
        "http://127.0.0.1:1",
        "kefu:latest",
    )
    assert served.label == "kefu-latest"
    path.write_bytes(b"nope")
    with pytest.raises(InputError, match="no GGUF"):
        find_model(str(path), home)
    with pytest.raises(NotFoundError, match="no-such"):
        find_model("no-such", home)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no finished run"):
        find_model(str(tmp_path / "empty"), home)


def test_labels_are_unique_and_no_model_is_measured_twice(home: Home, models: Path) -> None:
    one, two = (find_model(f"m={models / name}", home) for name in ("one", "two"))
    assert [m.label for m in unique_labels([one, two])] == ["m", "m-2"]
    with pytest.raises(UsageError):
        unique_labels([one, find_model(str(models / "one"), home)])


def test_keys_come_from_the_environment_only() -> None:
    there: Mapping[str, str] = {"KEY": "secret"}
    assert key_from("KEY", there.get) == "secret" and key_from(None, there.get) == ""
    with pytest.raises(UsageError, match="NONE"):
        key_from("NONE", there.get)
    assert "secret" not in repr(served_model("http://x", "m", "secret"))
