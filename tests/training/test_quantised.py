"""QLoRA: a base of 4 or 8 bits, with adapters that learn on it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import ResourceError, UsageError
from slipway.core.events import EventLog
from slipway.training import TrainSpec, evaluate_loss, lora, train
from slipway.training.estimate.skeleton import build, numbers, read_config, weight_bytes
from slipway.training.model import load_base
from slipway.training.quantised import QuantLinear, make_up
from slipway.training.spec import LoraSpec, QuantSpec

CPU = torch.device("cpu")
KINDS = {
    "nf4": QuantSpec(bits=4),
    "fp4 with plain scales": QuantSpec(bits=4, type="fp4", double=False),
    "int8": QuantSpec(bits=8),
}
# mean error of a weight, as a part of the weights' mean size: what the format can do
ERRORS = {"nf4": 0.13, "fp4 with plain scales": 0.2, "int8": 0.02}


def make_spec(base: Path, data: Path, **values: Any) -> TrainSpec:
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "lora": LoraSpec(rank=4, alpha=8.0),
        "quant": QuantSpec(bits=4),
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


def quantised(model: Any) -> dict[str, QuantLinear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantLinear)}


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_are_packed_and_the_rest_stays(kind: str, base: Path) -> None:
    model = load_base(base, torch.float32, CPU, KINDS[kind])
    plain = load_base(base, torch.float32, CPU)
    layers = quantised(model)
    assert set(layers) == set(lora.linear_names(plain))
    for name, layer in layers.items():
        wanted = plain.get_submodule(name).weight
        assert layer.unpacked().shape == wanted.shape
        assert (layer.unpacked() - wanted).abs().mean() < ERRORS[kind] * wanted.abs().mean()
    assert model.get_output_embeddings().weight.equal(plain.get_output_embeddings().weight)
    bits = KINDS[kind].bits
    assert bits is not None
    linear = sum(p.numel() for n, p in plain.named_parameters() if "proj" in n)
    smaller = weight_bytes(plain) - weight_bytes(model)
    assert smaller > linear * (4 - bits / 8) * 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_layer_computes_and_derives_as_its_unpacked_weight(kind: str, base: Path) -> None:
    model = load_base(base, torch.float32, CPU, KINDS[kind])
    layer = next(iter(quantised(model).values()))
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight.data = layer.unpacked()
    for shape in (lora.LoraShape(3, 6.0), lora.LoraShape(3, 6.0, dora=True)):
        torch.manual_seed(0)
        ours = lora.LoraLinear(layer, shape)
        torch.manual_seed(0)
        theirs = lora.LoraLinear(plain, shape)
        for adapted in (ours, theirs):
            torch.nn.init.constant_(adapted.lora_b, 0.02)
        x = torch.randn(2, 5, layer.in_features, requires_grad=True)
        found, wanted = ours(x), theirs(x)
        torch.testing.assert_close(found, wanted)
        grad = torch.randn_like(found)
        left = torch.autograd.grad(found, [x, ours.lora_a, ours.lora_b], grad)
        right = torch.autograd.grad(wanted, [x, theirs.lora_a, theirs.lora_b], grad)
        for one, other in zip(left, right, strict=True):
            torch.testing.assert_close(one, other)


def test_gradients_go_through_a_packed_layer_without_an_adapter(base: Path) -> None:
    layer = next(iter(quantised(load_base(base, torch.float32, CPU, KINDS["nf4"])).values()))
    x = torch.randn(3, layer.in_features, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.unpacked().sum(0).expand_as(x))


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_layers_take_the_bytes_of_real_ones(kind: str, base: Path) -> None:
    real = load_base(base, torch.float32, CPU, KINDS[kind])
    config = read_config(base)
    for device in (torch.device("meta"), CPU):
        model = build(config, torch.float32, device)
        make_up(model, KINDS[kind])
        assert weight_bytes(model) == pytest.approx(weight_bytes(real), rel=0.002)
        assert numbers(model)[0] == numbers(load_base(base, torch.float32, CPU))[0]
    layer = next(iter(quantised(model).values()))
    assert torch.isfinite(layer(torch.ones(2, layer.in_features))).all()


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_an_adapter_learns_on_a_packed_base_and_resumes_exactly(
    bits: int, base: Path, data: Path, tmp_path: Path
) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["type"] == "metric" and event["kind"] == "train" and event["step"] == 4:
            raise KeyboardInterrupt

    spec = make_spec(base, data, quant=QuantSpec(bits=bits))
    whole = train(spec, run_dir=tmp_path / "whole", events=quiet())
    assert whole.metrics["eval_loss"] < 0.95 * whole.metrics["base_eval_loss"]
    with pytest.raises(KeyboardInterrupt):
        train(spec, run_dir=tmp_path / "cut", events=quiet(stop))
    train(spec, run_dir=tmp_path / "cut", events=quiet())
    file = f"adapter/{lora.WEIGHTS_FILE}"
    assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_the_merge_of_a_packed_run_says_how_far_it_is_from_what_was_trained(
    base: Path, data: Path, tmp_path: Path
) -> None:
    from slipway.datasets import load_dataset
    from slipway.export import merge_run

    run = train(make_spec(base, data), run_dir=tmp_path / "run", events=quiet())
    assert run.manifest.notes["base_held"] == "4 bits (nf4, double)"
    merged = merge_run(tmp_path / "run", tmp_path / "merged")
    assert 0 < merged.metrics["quantised_kl_mean"] < 0.5
    heldout = load_dataset(data, "heldout")
    loss = evaluate_loss(tmp_path / "merged", heldout, threads=1, dtype="fp32").loss
    assert loss == pytest.approx(run.metrics["eval_loss"], rel=0.1)


def test_without_bitsandbytes_the_extra_is_named(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(ResourceError) as caught:
        load_base(base, torch.float32, CPU, QuantSpec(bits=4))
    assert "slipway[qlora]" in caught.value.hint_en


def test_packed_weights_are_not_trained_themselves(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="method: full"):
        train(make_spec(base, data, method="full"), run_dir=tmp_path / "a", events=quiet())
    spec = make_spec(base, data, lora=LoraSpec(rank=2, extra_modules=["mlp"]))
    with pytest.raises(UsageError, match="quantised"):
        train(spec, run_dir=tmp_path / "b", events=quiet())
