"""LoRA under the quantiser's rounding: the rounding is llama.cpp's, the gradients are as stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from slipway.core.errors import UsageError
from slipway.core.events import EventLog
from slipway.datasets import load_dataset
from slipway.export import merge_run
from slipway.export.lesson.blocks import ENCODERS, back
from slipway.training import TrainSpec, evaluate_loss, train
from slipway.training.lora.aware import FakeType, RoundedSum, rounded
from slipway.training.lora.layer import LoraLinear, LoraShape
from slipway.training.methods import attach


def layer(dtype: torch.dtype = torch.float32, kind: FakeType = "q4_0") -> LoraLinear:
    torch.manual_seed(0)
    made = LoraLinear(
        nn.Linear(64, 48, bias=True, dtype=dtype).requires_grad_(False), LoraShape(4, 8)
    )
    made.lora_b.data.normal_(std=0.05)
    made.rounding = RoundedSum(kind)
    return made


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_the_rounding_is_that_of_the_files_format(kind: FakeType) -> None:
    weight = torch.randn(40, 96) * 0.1
    weight[3] = 0
    name = kind.upper()
    expected = back(name, ENCODERS[name](weight.numpy())).reshape(40, 96)
    assert np.array_equal(rounded(weight, kind).numpy(), expected)


def test_rows_that_are_no_whole_blocks_stay_as_they_are() -> None:
    weight = torch.randn(4, 40)
    assert rounded(weight, "q4_0") is weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_computed_is_the_merged_and_rounded_layer(dtype: torch.dtype) -> None:
    made, x = layer(dtype), torch.randn(7, 64).to(dtype)
    merged = made.merged().to(dtype).float()
    expected = nn.functional.linear(x, rounded(merged, "q4_0").to(dtype), made.base.bias)
    assert torch.equal(made(x), expected)
    made.off = True
    assert not torch.allclose(made(x).float(), expected.float(), atol=1e-4)


def test_gradients_are_those_of_the_straight_through_estimator() -> None:
    made, x = layer(), torch.randn(7, 64, requires_grad=True)
    made(x).square().sum().backward()
    a, b = (p.detach().clone().requires_grad_() for p in (made.lora_a, made.lora_b))
    again = x.detach().clone().requires_grad_()
    total = made.base.weight + made.scale * b @ a
    through = total + (rounded(total.detach(), "q4_0") - total).detach()
    nn.functional.linear(again, through, made.base.bias).square().sum().backward()
    for mine, theirs in ((made.lora_a, a), (made.lora_b, b), (x, again)):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def test_the_rounded_sum_is_made_once_for_each_step() -> None:
    made, x = layer(), torch.randn(2, 64)
    first = made(x)
    assert made.rounding is not None
    kept = made.rounding._made
    made(x)
    assert made.rounding._made is kept
    with torch.no_grad():
        made.lora_b.add_(0.05)
    assert not torch.equal(made(x), first)
    made.lora_b.data = made.lora_b.data + 0.05  # as a state that is put back
    made(x)
    assert made.rounding._made is not kept


def spec(**keys: Any) -> TrainSpec:
    return TrainSpec.model_validate({"model": "m", "data": "d", "quant_aware": "q4_0", **keys})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"lora": {"dora": True}}, "lora.dora"),
        ({"lora": {"dropout": 0.1}}, "lora.dropout"),
        ({"quant": {"bits": 4}}, "quant.bits"),
        ({"stage": "rm"}, "stage: rm"),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        attach(nn.Linear(64, 64), spec(**keys), torch.float32)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="quant_aware"):
        spec(quant_aware="q4_k")


def test_the_runs_eval_loss_is_that_of_the_merged_and_rounded_model(
    base: Path, data: Path, tmp_path: Path
) -> None:
    recipe = TrainSpec.model_validate(
        {
            "model": str(base),
            "data": str(data),
            "quant_aware": "q4_0",
            "lora": {"rank": 4, "alpha": 8.0},
            "batch_tokens": 256,
            "pack_tokens": 160,
            "learning_rate": 0.01,
            "max_steps": 6,
            "epochs": 50.0,
            "threads": 1,
            "dtype": "fp32",
        }
    )
    result = train(recipe, run_dir=tmp_path / "run", events=EventLog(None))
    assert result.metrics["eval_loss"] < 0.97 * result.metrics["base_eval_loss"]
    merge_run(tmp_path / "run", tmp_path / "merged")
    heldout = load_dataset(data, "heldout")
    plain = evaluate_loss(tmp_path / "merged", heldout, threads=1, dtype="fp32")
    file = tmp_path / "merged" / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if ".layers." in name and weight.ndim == 2:
            weights[name] = rounded(weight.float(), "q4_0").to(weight.dtype)
    save_file(weights, file, {"format": "pt"})
    done = evaluate_loss(tmp_path / "merged", heldout, threads=1, dtype="fp32")
    assert done.loss == pytest.approx(result.metrics["eval_loss"], abs=2e-4)
    assert abs(plain.loss - done.loss) > 1e-3
