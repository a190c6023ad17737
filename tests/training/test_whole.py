"""Methods full and freeze: the weights themselves are trained and kept as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slipway.core.errors import UsageError
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest
from slipway.datasets import load_dataset
from slipway.export import merge_run
from slipway.training import TrainSpec, evaluate_loss, train
from slipway.training.spec import FreezeSpec


def make_spec(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "method": "full",
        "batch_tokens": 256,
        "pack_tokens": 160,
        "learning_rate": 0.003,
        "max_steps": 8,
        "epochs": 50.0,
        "save_every_steps": 3,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec(**settings)


def quiet(*listeners: Any) -> EventLog:
    return EventLog(None, *listeners)


@pytest.fixture(scope="module")
def full_run(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("full") / "run"
    train(make_spec(base, data), run_dir=run_dir, events=quiet())
    return run_dir


def test_full_training_learns_and_keeps_a_model_folder_that_gives_the_same_loss(
    full_run: Path, base: Path, data: Path
) -> None:
    manifest = read_manifest(full_run, kind="run")
    assert manifest.metrics["eval_loss"] < 0.9 * manifest.metrics["base_eval_loss"]
    assert manifest.notes["artefact"] == "model"
    assert not (full_run / "adapter").exists()
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        assert (full_run / "model" / name).read_bytes() == (base / name).read_bytes()
    heldout = load_dataset(data, "heldout")
    again = evaluate_loss(full_run / "model", heldout, threads=1, dtype="fp32")
    assert again.loss == pytest.approx(manifest.metrics["eval_loss"], abs=1e-5)


def test_every_weight_of_full_training_moves_and_stays_under_its_name_and_type(
    full_run: Path, base: Path
) -> None:
    before = load_file(base / "model.safetensors")
    after = load_file(full_run / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].dtype == after[name].dtype for name in before)
    assert all(not before[name].equal(after[name]) for name in before)


def test_full_training_takes_the_steps_of_a_plain_transformers_loop(
    base: Path, data: Path, tmp_path: Path
) -> None:
    """One row a step, plain cross-entropy, torch's AdamW: the same losses."""
    from transformers import AutoModelForCausalLM

    from slipway.datasets import encode_all, load_tokenizer
    from slipway.training.plan import learning_rate, step_rows

    spec = make_spec(base, data, batch_rows=1, max_steps=5, schedule="constant", warmup_ratio=0.0)
    train(spec, run_dir=tmp_path / "run", events=quiet())
    ours = [
        event["loss"]
        for event in read_events(tmp_path / "run" / "events.jsonl", "metric")
        if event["kind"] == "train"
    ]
    rows = encode_all(load_dataset(data), load_tokenizer(base), spec.cutoff_len).rows
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=0.0)
    steps = step_rows([len(row.input_ids) for row in rows], 1, spec.seed, 1)
    assert learning_rate(1, 5, peak=1.0, warmup_ratio=0.0, schedule="constant") == 1.0
    theirs = []
    for _ in range(5):
        _, (number,) = next(steps)
        ids = torch.tensor([rows[number].input_ids])
        loss = model(input_ids=ids, labels=torch.tensor([rows[number].labels])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        optimizer.step()
        theirs.append(float(loss.detach()))
    assert ours == pytest.approx(theirs, abs=2e-4)


def test_full_training_resumes_to_the_same_weights(
    full_run: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 5:
            raise KeyboardInterrupt

    spec = make_spec(base, data)
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path, events=quiet(stop))
    train(spec, run_dir=tmp_path, events=quiet())
    name = "model/model.safetensors"
    assert (tmp_path / name).read_bytes() == (full_run / name).read_bytes()


def test_bf16_computes_in_bf16_and_steps_in_fp32(base: Path, data: Path, tmp_path: Path) -> None:
    spec = make_spec(base, data, dtype="bf16", max_steps=6)
    result = train(spec, run_dir=tmp_path, events=quiet())
    assert result.metrics["eval_loss"] < 0.95 * result.metrics["base_eval_loss"]


def test_freeze_moves_the_chosen_layer_and_module_only(
    base: Path, data: Path, tmp_path: Path
) -> None:
    freeze = FreezeSpec(layers=1, modules=["mlp"], extra_modules=["norm"])
    spec = make_spec(base, data, method="freeze", freeze=freeze, max_steps=3)
    result = train(spec, run_dir=tmp_path, events=quiet())
    before = load_file(base / "model.safetensors")
    after = load_file(result.model / "model.safetensors")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.norm.weight",
    }


def test_freeze_counts_negative_layers_from_the_front(
    base: Path, data: Path, tmp_path: Path
) -> None:
    freeze = FreezeSpec(layers=-1)
    spec = make_spec(base, data, method="freeze", freeze=freeze, max_steps=2)
    result = train(spec, run_dir=tmp_path, events=quiet())
    before = load_file(base / "model.safetensors")
    after = load_file(result.model / "model.safetensors")
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved == {name for name in before if ".layers.0." in name}


@pytest.mark.parametrize(
    ("freeze", "code"),
    [
        (FreezeSpec(layers=3), "train.no_such_layers"),
        (FreezeSpec(layers=0), "train.no_such_layers"),
        (FreezeSpec(layers=1, modules=["mpl"]), "train.no_such_module"),
        (FreezeSpec(layers=1, extra_modules=["heads"]), "train.no_such_module"),
    ],
)
def test_freeze_names_what_the_model_does_not_have(
    freeze: FreezeSpec, code: str, base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data, method="freeze", freeze=freeze)
    with pytest.raises(UsageError) as caught:
        train(spec, run_dir=tmp_path, events=quiet())
    assert caught.value.code == code


def test_a_whole_model_run_is_taken_over_as_a_merged_model(
    full_run: Path, data: Path, tmp_path: Path
) -> None:
    merged = merge_run(full_run, tmp_path / "merged")
    assert merged.kind == "merged"
    assert merged.parents["run"] == read_manifest(full_run).digest
    assert merged.metrics["changed_tensors"] == merged.metrics["tensors"]
    heldout = load_dataset(data, "heldout")
    loss = evaluate_loss(tmp_path / "merged", heldout, threads=1, dtype="fp32").loss
    assert loss == pytest.approx(read_manifest(full_run).metrics["eval_loss"], abs=1e-5)
