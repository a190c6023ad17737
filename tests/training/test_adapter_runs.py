"""Whole runs of LoRA's variants: they learn, resume exactly, merge, and can be gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slipway.core.errors import ConflictError, InputError, UsageError
from slipway.core.events import EventLog, read_events
from slipway.core.manifest import read_manifest
from slipway.datasets import Encoded, load_dataset
from slipway.export import merge_run
from slipway.testing.tiny import tiny_model
from slipway.training import TrainSpec, evaluate_loss, lora, train
from slipway.training.batch import batches, losses
from slipway.training.methods import attach, make_optimizer
from slipway.training.methods.noise import document_lengths
from slipway.training.model import load_base
from slipway.training.spec import LoraSpec, OftSpec

CPU = torch.device("cpu")


def make_spec(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": LoraSpec(rank=4, alpha=8.0),
        "batch_tokens": 256,
        "pack_tokens": 160,
        "learning_rate": 0.01,
        "max_steps": 6,
        "epochs": 50.0,
        "save_every_steps": 3,
        "threads": 1,
        "dtype": "fp32",
        **values,
    }
    return TrainSpec(**settings)


def quiet(*listeners: Any) -> EventLog:
    return EventLog(None, *listeners)


def stop_after(step: int) -> Any:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == step:
            raise KeyboardInterrupt

    return stop


RUNS: dict[str, dict[str, Any]] = {
    "most at once": {
        "lora": LoraSpec(
            rank=4,
            alpha=4.0,
            rslora=True,
            dora=True,
            plus_ratio=2.0,
            extra_modules=["embed_tokens", "model.norm"],
        ),
        "neftune_alpha": 5.0,
        "weight_decay": 0.01,
    },
    "pissa": {"lora": LoraSpec(rank=4, alpha=4.0, pissa=True, pissa_iter=2)},
    "oft with dropout": {"method": "oft", "oft": OftSpec(block_size=8, dropout=0.2)},
    "rslora with dropout": {"lora": LoraSpec(rank=4, alpha=4.0, rslora=True, dropout=0.2)},
    "dora with dropout": {"lora": LoraSpec(rank=4, alpha=8.0, dora=True, dropout=0.2)},
    "extra modules": {"lora": LoraSpec(rank=4, alpha=8.0, extra_modules=["lm_head"])},
}
SLOW = list(RUNS)[3:]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in RUNS]
)
def test_a_run_learns_resumes_to_the_same_weights_and_merges(
    name: str, base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data, **RUNS[name])
    whole = train(spec, run_dir=tmp_path / "whole", events=quiet())
    assert whole.metrics["eval_loss"] < 0.97 * whole.metrics["base_eval_loss"]
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop_after(4)))
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    file = f"adapter/{lora.WEIGHTS_FILE}"
    assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    heldout = load_dataset(data, "heldout")
    beside = evaluate_loss(base, heldout, adapter=whole.adapter, threads=1, dtype="fp32")
    assert beside.loss == pytest.approx(whole.metrics["eval_loss"], abs=1e-5)
    merge_run(tmp_path / "whole", tmp_path / "merged")
    merged = evaluate_loss(tmp_path / "merged", heldout, threads=1, dtype="fp32")
    assert merged.loss == pytest.approx(whole.metrics["eval_loss"], abs=1e-5)


def test_pissa_is_saved_as_plain_lora_of_twice_the_rank(
    base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data, **RUNS["pissa"], max_steps=1)
    result = train(spec, run_dir=tmp_path, events=quiet())
    config = json.loads((result.adapter / lora.CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 8.0)
    assert config["init_lora_weights"] is True


def test_lora_plus_gives_b_a_rate_of_its_own(base: Path, data: Path) -> None:
    spec = make_spec(base, data, lora=LoraSpec(rank=2, alpha=2.0, dora=True, plus_ratio=16.0))
    tuned = attach(load_base(base, torch.float32, CPU), spec, torch.float32)
    by_ratio = {
        group["lr_ratio"]: group["params"] for group in make_optimizer(spec, tuned).param_groups
    }
    layers = [layer for _, layer in lora.adapters(tuned.model)]
    assert {id(p) for p in by_ratio[16.0]} == {id(layer.lora_b) for layer in layers}
    every = [p for group in tuned.groups() for p in group.parameters]
    assert len(every) == len({id(p) for p in every}) == 3 * len(layers)


def test_noise_is_for_training_only_and_by_the_length_of_each_document(
    base: Path, data: Path
) -> None:
    model = load_base(base, torch.float32, CPU)
    attach(model, make_spec(base, data, neftune_alpha=8.0), torch.float32)
    seen: list[torch.Tensor] = []
    model.get_decoder().layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach())
    )
    rows = [Encoded(str(n), list(range(5, 5 + n)), list(range(5, 5 + n))) for n in (2, 8)]
    ((_, batch),) = batches(rows, 100, CPU)
    lengths = document_lengths(batch.positions)[0]
    assert sorted(lengths.tolist()) == [2.0] * 2 + [8.0] * 8
    decoder = model.get_decoder()
    exact = model.get_input_embeddings()(batch.input_ids)
    for training in (False, True):
        decoder.train(training)
        losses(model, batch)
    with torch.no_grad():
        losses(model, batch)
    torch.testing.assert_close(seen[0], exact)
    torch.testing.assert_close(seen[2], exact)
    noise = (seen[1] - exact)[0].abs().amax(1)
    limits = 8.0 / (lengths * exact.shape[-1]).sqrt()
    assert (noise <= limits + 1e-6).all()
    assert (noise > 0.8 * limits).all()


@pytest.fixture(scope="module")
def first(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("first") / "run"
    spec = make_spec(base, data, lora=LoraSpec(rank=3, alpha=6.0, target=["q_proj", "down_proj"]))
    train(spec, run_dir=run_dir, events=quiet())
    return run_dir


def test_a_run_goes_on_from_the_adapter_of_another(
    first: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data, lora=LoraSpec(), adapter=str(first), warmup_ratio=0.0)
    result = train(spec, run_dir=tmp_path, events=quiet())
    before = read_manifest(first).metrics["eval_loss"]
    assert result.metrics["base_eval_loss"] == pytest.approx(before, abs=1e-5)
    assert result.metrics["eval_loss"] < before
    config = json.loads((result.adapter / lora.CONFIG_FILE).read_text())
    assert (config["r"], config["target_modules"]) == (3, ["down_proj", "q_proj"])
    assert set(result.manifest.parents) == {"base", "dataset", "adapter"}
    again = train(spec, run_dir=tmp_path, events=quiet())
    assert again.resumed_from == 6


def test_the_reference_of_a_gone_on_adapter_is_that_adapter(
    first: Path, base: Path, data: Path
) -> None:
    spec = make_spec(base, data, lora=LoraSpec(), adapter=str(first / "adapter"))
    tuned = attach(load_base(base, torch.float32, CPU), spec, torch.float32)
    start = {name: tensor.clone() for name, tensor in tuned.state().items()}
    for parameter in tuned.parameters:
        parameter.data += 1.0
    moved = {name: tensor.clone() for name, tensor in tuned.state().items()}
    reference = tuned.reference()
    assert reference is not None
    with reference:
        assert all(start[name].equal(tensor) for name, tensor in tuned.state().items())
    assert all(moved[name].equal(tensor) for name, tensor in tuned.state().items())


def test_a_changed_adapter_is_not_mistaken_for_the_one_a_run_began_from(
    first: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(first / "adapter", tmp_path / "mine")
    spec = make_spec(base, data, lora=LoraSpec(), adapter=str(tmp_path / "mine"), max_steps=2)
    train(spec, run_dir=tmp_path / "run", events=quiet())
    config = tmp_path / "mine" / lora.CONFIG_FILE
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ConflictError, match="adapter"):
        train(spec, run_dir=tmp_path / "run", events=quiet())


def test_an_adapter_is_refused_where_it_does_not_fit(
    first: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], **values: Any) -> str:
        spec = make_spec(**{"base": base, "data": data, "lora": LoraSpec(), **values})
        with pytest.raises(kind) as caught:
            train(spec, run_dir=tmp_path / "run", events=quiet())
        return str(caught.value)

    assert "neither an adapter" in refused(InputError, adapter=str(data))
    assert "lora.rank: 7" in refused(UsageError, adapter=str(first), lora=LoraSpec(rank=7))
    assert "method: full" in refused(UsageError, adapter=str(first), method="full")
    assert "of kind LORA" in refused(UsageError, adapter=str(first), method="oft")
    other = tiny_model(tmp_path / "other", seed=5)
    assert "another base" in refused(ConflictError, adapter=str(first), base=other)


def test_the_saved_adapter_of_extra_modules_holds_them(
    base: Path, data: Path, tmp_path: Path
) -> None:
    spec = make_spec(base, data, **RUNS["most at once"], max_steps=2)
    result = train(spec, run_dir=tmp_path, events=quiet())
    names = set(load_file(result.adapter / lora.WEIGHTS_FILE))
    assert {
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.weight",
        "base_model.model.model.norm.weight",
    } <= names
    told = next(e for e in read_events(tmp_path / "events.jsonl", "log") if "trained_weights" in e)
    assert {"embed_tokens", "model.norm"} <= set(told["targets"])
