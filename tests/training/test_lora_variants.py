"""rsLoRA, DoRA, PiSSA and modules trained whole: the mathematics, and PEFT as the other side."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slipway.core.errors import UsageError
from slipway.datasets import Encoded
from slipway.training import lora
from slipway.training.batch import batches, losses
from slipway.training.lora.attach import live
from slipway.training.model import load_base

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"singular": 8},
    "exact pissa": {"singular": -1},
    "rslora, dora and pissa": {"rslora": True, "dora": True, "singular": 4},
    "tied embedding": {"extra_modules": ["embed_tokens"]},
    "last norm": {"extra_modules": ["model.norm"], "target": ["q_proj", "v_proj"]},
    "norms of all layers": {"extra_modules": ["input_layernorm"]},
    "a projection of the targets": {"extra_modules": ["down_proj"]},
    "oft": {"block": 8},
    "oft of blocks that do not divide the width": {"block": 7, "target": ["down_proj"]},
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with biases, and a head of its own."""
    import transformers

    folder = tmp_path_factory.mktemp("biased")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def plain(base: Path) -> Any:
    return load_base(base, torch.float32, CPU)


def adapted(base: Path, **options: Any) -> Any:
    model = plain(base)
    settings = {"rank": 4, "alpha": 6.0, "dropout": 0.0, "target": "all", **options}
    torch.manual_seed(1)
    put_on(model, **settings)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as training would move them
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def put_on(model: Any, *, block: int = 0, **settings: Any) -> None:
    if not block:
        lora.attach(model, **settings)
        return
    shape = lora.OftShape(block)
    lora.attach_layers(
        model, lambda base: lora.OftLinear(base, shape), settings["target"], "oft.target"
    )


def logits(model: Any) -> torch.Tensor:
    model.set_attn_implementation("eager")
    model.eval()
    with torch.inference_mode():
        out: torch.Tensor = model(input_ids=torch.arange(5, 40)[None], use_cache=False).logits
    return out


def by_peft(base: Path, adapter: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses names that transformers has deprecated
        from peft import PeftModel

        return PeftModel.from_pretrained(plain(base), str(adapter))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["tied", "biased"])
def test_peft_computes_the_same_with_the_saved_adapter(
    variant: str, kind: str, base: Path, biased: Path, tmp_path: Path
) -> None:
    folder = base if kind == "tied" else biased
    model = adapted(folder, **VARIANTS[variant])
    lora.save_adapter(model, tmp_path / "adapter", base="tiny")
    wanted = logits(model)
    theirs = by_peft(folder, tmp_path / "adapter")
    torch.testing.assert_close(logits(theirs), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted, logits(plain(folder)), atol=1e-3)
    # and we with what PEFT writes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(str(tmp_path / "theirs"))
    again = plain(folder)
    lora.load_adapter(again, tmp_path / "theirs")
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_merged_weights_compute_the_same(variant: str, biased: Path) -> None:
    model = adapted(biased, **VARIANTS[variant])
    wanted = logits(model)
    merged = plain(biased)
    weights = dict(merged.named_parameters())
    for name, layer in lora.adapters(model):
        weights[f"{name}.weight"].data = layer.merged()
    for extra in lora.extras(model):
        for name in extra.names:
            weights[name].data = extra.trained.data
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_switched_off_the_base_remains(variant: str, base: Path) -> None:
    model = adapted(base, **VARIANTS[variant])
    before = logits(model)
    with lora.switched_off(model):
        torch.testing.assert_close(logits(model), logits(plain(base)))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "norm" not in v and "tied" not in v])
def test_training_begins_from_the_base(variant: str, base: Path) -> None:
    model = plain(base)
    torch.manual_seed(1)
    put_on(model, **{"rank": 4, "alpha": 6.0, "dropout": 0.0, "target": "all", **VARIANTS[variant]})
    torch.testing.assert_close(logits(model), logits(plain(base)), rtol=1e-4, atol=1e-5)


def test_adapters_with_sizes_of_their_own_are_read_and_written_as_peft_does(
    base: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=r".*\.(q_proj|down_proj)",
            rank_pattern={"layers.0.self_attn.q_proj": 2},
            alpha_pattern={"down_proj": 10},
            init_lora_weights=False,
        )
        torch.manual_seed(0)
        theirs = get_peft_model(plain(base), config)
        theirs.save_pretrained(str(tmp_path / "theirs"))
        wanted = logits(theirs)
    ours = plain(base)
    lora.load_adapter(ours, tmp_path / "theirs", dropout=0.0)
    torch.testing.assert_close(logits(ours), wanted, rtol=1e-4, atol=1e-5)
    lora.save_adapter(ours, tmp_path / "ours", base="tiny")
    theirs = by_peft(base, tmp_path / "ours")
    torch.testing.assert_close(logits(theirs), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fast", [False, True])
def test_oft_adapters_of_peft_compute_the_same(fast: bool, biased: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import OFTConfig, get_peft_model

        config = OFTConfig(
            r=4,
            oft_block_size=0,
            target_modules=["q_proj", "down_proj"],
            use_cayley_neumann=fast,
            init_weights=False,
        )
        torch.manual_seed(0)
        theirs = get_peft_model(plain(biased), config)
        theirs.save_pretrained(str(tmp_path / "theirs"))
        wanted = logits(theirs)
    ours = plain(biased)
    lora.load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), wanted, rtol=1e-4, atol=1e-4)
    merged = plain(biased)
    for name, layer in lora.adapters(ours):
        merged.get_submodule(name).weight.data = layer.merged()
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-4, atol=1e-4)


def test_oft_turns_inputs_without_changing_their_lengths() -> None:
    torch.manual_seed(0)
    layer = lora.OftLinear(nn.Linear(12, 5), lora.OftShape(4))
    nn.init.normal_(layer.rotation)
    turned = layer.rotations()
    one = torch.eye(4).expand(3, 4, 4)
    torch.testing.assert_close(turned @ turned.transpose(1, 2), one)
    before, after = layer.base.weight, layer.merged()
    torch.testing.assert_close(after @ after.t(), (before @ before.t()).detach())


def test_oft_dropout_leaves_some_blocks_unturned_while_training() -> None:
    torch.manual_seed(0)
    layer = lora.OftLinear(nn.Linear(16, 5), lora.OftShape(4, dropout=0.5))
    nn.init.normal_(layer.rotation)
    blocks = layer._kept(layer.rotations())
    unturned = [bool(torch.equal(block, torch.eye(4))) for block in blocks]
    assert sum(unturned) == 2
    layer.eval()
    assert torch.equal(layer._kept(layer.rotations()), layer.rotations())


def test_half_of_a_tied_weight_is_read_as_peft_does(base: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        theirs = get_peft_model(plain(base), config)
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad and "embed" in name:
                parameter.data += 0.1
        theirs.save_pretrained(str(tmp_path / "theirs"))
        wanted = logits(theirs)
    ours = plain(base)
    lora.load_adapter(ours, tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), wanted, rtol=1e-4, atol=1e-5)


def test_pissa_takes_the_largest_singular_values() -> None:
    torch.manual_seed(0)
    layer = lora.LoraLinear(nn.Linear(12, 10), lora.LoraShape(3, 6.0))
    layer.begin_from_singular(-1)
    left, values, right = torch.linalg.svd(layer.base.weight.detach())
    wanted = left[:, :3] * values[:3] @ right[:3]
    torch.testing.assert_close((layer.lora_b * layer.scale) @ layer.lora_a, wanted)
    layer.begin_from_singular(16)  # approximate where singular values lie close together
    found = (layer.lora_b * layer.scale) @ layer.lora_a
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_dora_gradients_equal_those_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    layer = lora.LoraLinear(nn.Linear(6, 5), lora.LoraShape(2, 6.0, dora=True))
    nn.init.normal_(layer.lora_b)
    assert layer.magnitude is not None
    layer.magnitude.data *= 1.5
    x = torch.randn(7, 6, requires_grad=True)
    grad = torch.randn(7, 5)
    trained = [x, layer.lora_a, layer.lora_b, layer.magnitude]
    weight = layer.base.weight + layer.scale * layer.lora_b @ layer.lora_a
    lengths = weight.detach().norm(dim=1)
    wanted = x @ weight.t() * (layer.magnitude / lengths) + layer.base.bias
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(found, trained, grad),
        torch.autograd.grad(wanted, trained, grad),
        strict=True,
    )
    for ours, plain_gradient in pairs:
        torch.testing.assert_close(ours, plain_gradient, rtol=1e-4, atol=1e-5)


def test_a_tied_embedding_is_trained_once_and_saved_under_both_names(
    base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model = adapted(base, extra_modules=["lm_head"])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(lora.extras(model)) == 1
    lora.save_adapter(model, tmp_path, base="tiny")
    config = json.loads((tmp_path / lora.CONFIG_FILE).read_text())
    assert config["modules_to_save"] == ["embed_tokens", "lm_head"]
    tensors = load_file(tmp_path / lora.WEIGHTS_FILE)
    head = tensors["base_model.model.lm_head.weight"]
    assert head.equal(tensors["base_model.model.model.embed_tokens.weight"])
    assert head.dtype == torch.float32


def test_whole_modules_are_fp32_on_a_bf16_base_and_compute_among_it(base: Path) -> None:
    model = load_base(base, torch.bfloat16, CPU)
    modules = ["embed_tokens", "norm", "down_proj"]
    lora.attach(model, rank=2, alpha=2.0, dropout=0.0, target="all", extra_modules=modules)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    seen = []
    model.model.norm.register_forward_hook(lambda module, args, result: seen.append(result.dtype))
    ids = list(range(5, 25))
    ((_, batch),) = batches([Encoded("0", ids, ids)], 100, CPU)
    losses(model, batch).sum().backward()
    assert seen == [torch.bfloat16]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())
    logits(model)  # the plain path, as generation takes it


def test_an_unknown_extra_module_offers_the_nearest(base: Path) -> None:
    with pytest.raises(UsageError, match="embed_token") as caught:
        adapted(base, extra_modules=["embed_token"])
    assert "embed_tokens" in caught.value.hint_en


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_goes_back_exactly(variant: str, base: Path, tmp_path: Path) -> None:
    model = adapted(base, **VARIANTS[variant])
    kept = lora.state(model)
    for tensor in live(model).values():
        tensor.data.add_(1.0)
    lora.load_state(model, kept, tmp_path)
    assert all(kept[name].equal(tensor) for name, tensor in live(model).items())
