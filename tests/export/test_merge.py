from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipway.core.errors import (
    ConflictError,
    NotFoundError,
    ProofError,
    ResourceError,
    SlipwayError,
)
from slipway.core.events import EventLog
from slipway.core.manifest import read_manifest, write_manifest
from slipway.core.paths import Home
from slipway.datasets import load_tokenizer
from slipway.export import shards
from slipway.export.merge import merge_run
from slipway.export.merge import write as writing
from slipway.testing.tiny import tiny_model
from slipway.training import LoraSpec, TrainSpec, train

WEIGHTS = "model.safetensors"
ADAPTER = Path("adapter") / "adapter_model.safetensors"


def row(index: int) -> str:
    answer = f"you can return it within {index % 7} days."
    messages = [
        {"role": "user", "content": f"may i return order {index}"},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` (bf16) and `run`."""
    folder = tmp_path_factory.mktemp("trained")
    base = tiny_model(folder / "base")
    tensors = {name: t.bfloat16() for name, t in load_file(base / WEIGHTS).items()}
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    (folder / "train.jsonl").write_text("\n".join(row(i) for i in range(16)) + "\n")
    spec = TrainSpec(
        model=str(base),
        data=str(folder / "train.jsonl"),
        lora=LoraSpec(rank=4, alpha=8.0),
        learning_rate=0.02,
        max_steps=12,
        epochs=20.0,
        batch_tokens=512,
        threads=1,
        dtype="fp32",
    )
    train(spec, run_dir=folder / "run", events=EventLog(None))
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The trained folder, free to be damaged; its run points at its own base."""
    shutil.copytree(trained, tmp_path / "copy")
    change_manifest(tmp_path / "copy" / "run", base_path=str(tmp_path / "copy" / "base"))
    return tmp_path / "copy"


def change_manifest(run: Path, **notes: object) -> None:
    manifest = read_manifest(run)
    write_manifest(
        run,
        "run",
        manifest.name,
        files=[entry.path for entry in manifest.files],
        parents=manifest.parents,
        notes={**manifest.notes, **notes},
    )


def refused(copy: Path, code: str) -> SlipwayError:
    with pytest.raises(ProofError) as caught:
        merge_run(copy / "run", copy / "out")
    assert caught.value.code == code
    assert sorted(p.name for p in copy.iterdir()) == ["base", "run", "train.jsonl"]
    return caught.value


def test_the_merged_folder_is_base_plus_adapter_with_lineage(trained: Path, tmp_path: Path) -> None:
    manifest = merge_run(trained / "run", tmp_path / "out")
    run = read_manifest(trained / "run")
    assert manifest.parents == {"run": run.digest, "base": run.parents["base"]}
    assert manifest.metrics["changed_tensors"] == 14
    assert manifest.metrics["kl_mean"] < 0.1 * manifest.metrics["adapter_kl_mean"]
    assert manifest.metrics["top1_agreement"] >= 0.95
    for path in (trained / "base").iterdir():
        if path.name != WEIGHTS:
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    before = load_file(trained / "base" / WEIGHTS)
    after = load_file(tmp_path / "out" / WEIGHTS)
    adapter = load_file(trained / "run" / ADAPTER)
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    layer = "model.layers.1.mlp.up_proj"
    a = adapter[f"base_model.model.{layer}.lora_A.weight"]
    b = adapter[f"base_model.model.{layer}.lora_B.weight"]
    wanted = (before[f"{layer}.weight"].float() + 2.0 * b @ a).bfloat16()
    assert torch.equal(after[f"{layer}.weight"], wanted)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])


def test_merging_twice_gives_the_same_digest(trained: Path, tmp_path: Path) -> None:
    first = merge_run(trained / "run", tmp_path / "a")
    assert merge_run(trained / "run", tmp_path / "b").digest == first.digest


def test_an_adapter_that_changes_nothing_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "run" / ADAPTER)
    zero = {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in tensors.items()}
    save_file(zero, copy / "run" / ADAPTER)
    change_manifest(copy / "run")
    refused(copy, "merge.unchanged")


def test_a_result_that_is_not_base_plus_adapter_is_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = writing.merged_weight
    monkeypatch.setattr(
        writing,
        "merged_weight",
        lambda change, weight, name: weight + 3 * (original(change, weight, name) - weight),
    )
    error = refused(copy, "merge.differs")
    assert "KL" in error.message_en


def test_a_change_lost_in_rounding_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "run" / ADAPTER)
    faint = {n: t * 2e-4 if "lora_B" in n else t for n, t in tensors.items()}
    save_file(faint, copy / "run" / ADAPTER)
    change_manifest(copy / "run")
    refused(copy, "merge.effect_lost")


def test_another_base_is_refused(copy: Path) -> None:
    other = tiny_model(copy / "base", seed=7)
    assert other == copy / "base"
    refused(copy, "merge.other_base")


def test_an_adapter_of_another_shape_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "run" / ADAPTER)
    name = next(n for n in tensors if n.endswith("up_proj.lora_B.weight"))
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, copy / "run" / ADAPTER)
    change_manifest(copy / "run")
    assert "up_proj" in refused(copy, "merge.adapter_misfit").message_en


def test_an_adapter_for_a_layer_the_base_lacks_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "run" / ADAPTER)
    renamed = {n.replace("layers.1.", "layers.9."): t for n, t in tensors.items()}
    save_file(renamed, copy / "run" / ADAPTER)
    change_manifest(copy / "run")
    assert "layers.9" in refused(copy, "merge.adapter_misfit").message_en


def test_a_run_changed_after_training_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "run" / ADAPTER)
    save_file({n: t * 2 for n, t in tensors.items()}, copy / "run" / ADAPTER)
    assert "adapter_model" in refused(copy, "merge.run_changed").message_en


def test_a_moved_base_is_found_among_the_pulled_ones(copy: Path, home: Home) -> None:
    run = read_manifest(copy / "run")
    home.bases.mkdir(parents=True)
    moved = home.bases / "starter"
    (copy / "base").rename(moved)
    with pytest.raises(NotFoundError) as caught:
        merge_run(copy / "run", copy / "out")
    assert caught.value.code == "merge.base_not_found"
    from slipway.training.model import base_digest

    assert base_digest(moved) == run.parents["base"]
    write_manifest(moved, "base", "starter")
    assert merge_run(copy / "run", copy / "out").parents["base"] == run.parents["base"]


def test_an_unfinished_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        merge_run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("place", [".", "run", "base", "train.jsonl"])
def test_a_folder_of_other_things_is_never_replaced(copy: Path, place: str) -> None:
    before = sorted(path for path in copy.rglob("*"))
    with pytest.raises(ConflictError, match="would be lost") as caught:
        merge_run(copy / "run", copy / place)
    assert "-o " in caught.value.hint_en
    assert sorted(path for path in copy.rglob("*")) == before


def test_a_full_disk_leaves_nothing_behind(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, pieces: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards, "_write", full)
    with pytest.raises(ResourceError):
        merge_run(copy / "run", copy / "out")
    assert sorted(p.name for p in copy.iterdir()) == ["base", "run", "train.jsonl"]


def test_the_template_that_a_base_was_trained_with_goes_into_the_merged_model(
    tmp_path: Path,
) -> None:
    base = tiny_model(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    (tmp_path / "train.jsonl").write_text("\n".join(row(i) for i in range(8)) + "\n")
    spec = TrainSpec(
        model=str(base),
        data=str(tmp_path / "train.jsonl"),
        template="default",
        lora=LoraSpec(rank=4, alpha=8.0),
        learning_rate=0.02,
        max_steps=4,
        threads=1,
        dtype="fp32",
    )
    train(spec, run_dir=tmp_path / "run", events=EventLog(None))
    merge_run(tmp_path / "run", tmp_path / "out")
    turns = [{"role": "user", "content": "hi"}]
    text = load_tokenizer(tmp_path / "out").apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert text == "Human: hi\nAssistant:"
