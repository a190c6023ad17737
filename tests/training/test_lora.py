from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from slipway.core.errors import InputError, UsageError
from slipway.testing.tiny import tiny_model
from slipway.training import lora
from slipway.training.model import load_base

CPU = torch.device("cpu")


def adapted(base: Path, **options: object) -> torch.nn.Module:
    model: torch.nn.Module = load_base(base, torch.float32, CPU)
    settings = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target": "all", **options}
    lora.attach(model, **settings)  # type: ignore[arg-type]
    torch.manual_seed(1)
    for _, layer in lora.adapters(model):
        torch.nn.init.normal_(layer.lora_b, std=0.05)
    return model


def plain_logits(model: torch.nn.Module) -> torch.Tensor:
    model.set_attn_implementation("eager")  # type: ignore[operator]
    model.eval()
    with torch.inference_mode():
        out: torch.Tensor = model(input_ids=torch.arange(5, 40)[None], use_cache=False).logits
    return out


def test_gradients_equal_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    layer = lora.LoraLinear(torch.nn.Linear(6, 5), lora.LoraShape(2, 6.0)).double()
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 7, 5, dtype=torch.float64)

    def gradients(y: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(y, [x, layer.lora_a, layer.lora_b], grad))

    plain = layer.base(x) + (x @ layer.lora_a.T @ layer.lora_b.T) * 3.0
    ours = layer(x)
    torch.testing.assert_close(ours, plain)
    for left, right in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(left.double(), right, rtol=1e-5, atol=1e-6)


def test_dropout_changes_training_and_not_evaluation() -> None:
    torch.manual_seed(0)
    layer = lora.LoraLinear(torch.nn.Linear(6, 5), lora.LoraShape(2, 6.0, dropout=0.5))
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_only_the_adapters_are_trained(base: Path) -> None:
    model = adapted(base)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {
        "lora_a",
        "lora_b",
    }


def test_peft_loads_the_saved_adapter_and_gives_the_same_logits(base: Path, tmp_path: Path) -> None:
    model = adapted(base, target=["q_proj", "down_proj"])
    lora.save_adapter(model, tmp_path / "adapter", base=str(base))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses names that transformers has deprecated
        from peft import PeftModel

        theirs = PeftModel.from_pretrained(
            load_base(base, torch.float32, CPU), str(tmp_path / "adapter")
        )
        wanted = plain_logits(theirs)
    torch.testing.assert_close(plain_logits(model), wanted)
    assert not torch.allclose(wanted, plain_logits(load_base(base, torch.float32, CPU)))


def test_a_saved_adapter_loads_back_exactly(base: Path, tmp_path: Path) -> None:
    model = adapted(base)
    lora.save_adapter(model, tmp_path, base="tiny")
    again = load_base(base, torch.float32, CPU)
    lora.load_adapter(again, tmp_path)
    assert torch.equal(plain_logits(model), plain_logits(again))


def test_an_unknown_target_offers_the_nearest(base: Path) -> None:
    with pytest.raises(UsageError, match="qproj") as caught:
        adapted(base, target=["qproj"])
    assert "q_proj" in caught.value.hint_en


def edit_config(folder: Path, **values: object) -> None:
    path = folder / lora.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_adapter_of_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    lora.save_adapter(adapted(base, target=["q_proj"]), tmp_path, base="tiny")
    edit_config(tmp_path, r=8)
    with pytest.raises(InputError, match="lora_A"):
        lora.load_adapter(load_base(base, torch.float32, CPU), tmp_path)


def test_a_damaged_or_foreign_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    model = load_base(base, torch.float32, CPU)
    with pytest.raises(InputError, match="cannot read"):
        lora.load_adapter(model, tmp_path / "none")
    lora.save_adapter(adapted(base, target="q_proj"), tmp_path, base="x")
    for key, value in {"bias": "all", "use_qalora": True, "init_lora_weights": "pissa"}.items():
        before = json.loads((tmp_path / lora.CONFIG_FILE).read_text())
        edit_config(tmp_path, **{key: value})
        with pytest.raises(InputError, match=key):
            lora.load_adapter(model, tmp_path)
        edit_config(tmp_path, **{key: before.get(key)})
    (tmp_path / lora.WEIGHTS_FILE).write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot read"):
        lora.load_adapter(model, tmp_path)


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    tiny_model(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(tmp_path / "m", torch.float32, CPU)
