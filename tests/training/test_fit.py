from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from slipway.cli.main import main
from slipway.core.errors import InputError, NotFoundError
from slipway.core.paths import Home
from slipway.training.fit import Machine, ask, catalogue, count, find_model, shape_from_config
from slipway.training.fit.advise import rent
from slipway.training.fit.needs import adapter_weights, inference_bytes, kv_bytes, training_bytes

# as the hubs show them (safetensors, without copies of tied embeddings)
PUBLISHED = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "DeepSeek-V2-Lite": 15_706_484_224,
    "DeepSeek-V2": 235_741_434_880,
    "DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "DeepSeek-R1-Distill-Llama-70B": 70_553_706_496,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 24},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "qwen3_moe": {
        "head_dim": 24,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "deepseek_v2": {
        "n_routed_experts": 4,
        "n_shared_experts": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "kv_lora_rank": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 1,
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "kv_lora_rank": 16,
        "q_lora_rank": 20,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "first_k_dense_replace": 1,
    },
}
SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_counted_from_the_config_are_those_published(name: str) -> None:
    assert count(find_model(name).shape).total == PUBLISHED[name]


def test_deepseek_v3_has_671_billion_of_which_37_work_for_a_token() -> None:
    found = count(find_model("DeepSeek-V3").shape)
    assert round(found.total / 1e9) == 671 and 36.5e9 < found.active < 38e9


@pytest.mark.parametrize("family", TINY)
def test_counts_are_those_of_torchs_own_model(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**SIZES, **TINY[family]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    total = sum(p.numel() for p in model.parameters())
    # a buffer in transformers, a tensor of the checkpoint: the bias that balances the experts
    total += sum(b.numel() for n, b in model.named_buffers() if "correction_bias" in n)
    shape = shape_from_config({**config.to_dict(), "model_type": family}, "here")
    assert count(shape).total == total


def test_adapter_weights_are_those_that_lora_attaches() -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from slipway.training import lora

    config = AutoConfig.for_model("qwen3", **{**SIZES, **TINY["qwen3"]})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lora.attach(model, rank=8, alpha=8, dropout=0.0, target="all")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_weights(shape_from_config(config.to_dict(), "here"), 8) == trained


@pytest.mark.parametrize(
    "name",
    ["Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", "Qwen2.5-7B-Chat", "hf://Qwen/Qwen2.5-7B-Instruct"],
)
def test_a_model_is_found_however_it_is_written(name: str) -> None:
    assert find_model(name).name == "Qwen2.5-7B"


def test_a_folder_and_a_pulled_base_are_models_too(tmp_path: Path, home: Home) -> None:
    config = {"model_type": "llama", **SIZES}
    for folder in (tmp_path / "mine", home.bases / "org--repo"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
    assert find_model(str(tmp_path / "mine")).shape == find_model("org/repo").shape


def test_what_is_not_known_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_model("qwen2.5-8b")
    assert "Qwen2.5" in caught.value.hint_en
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(InputError, match="mamba"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    with pytest.raises(InputError, match="num_attention_heads"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("model", catalogue(), ids=lambda m: m.name)
def test_less_exact_ways_need_less_and_longer_contexts_more(model: Any) -> None:
    def training(method: Any) -> int:
        return training_bytes(model.shape, method, base_bytes=2, tokens=512)

    assert training("full") > training("lora") > training("qlora-8") > training("qlora-4")
    sizes = [inference_bytes(model.shape, p, 4096) for p in ("F16", "Q8_0", "Q5_K_M", "Q4_K_M")]
    assert sizes == sorted(sizes, reverse=True)
    assert kv_bytes(model.shape, 8192) == 2 * kv_bytes(model.shape, 4096)


def test_the_kv_cache_of_qwen_is_what_its_heads_say() -> None:
    # 28 layers x 4 heads x 128 x (key, value) x 2 bytes = 57,344 bytes for each token
    assert kv_bytes(find_model("Qwen2.5-7B").shape, 1) == 57344


def test_a_24_gb_gpu_trains_7b_with_lora_and_not_whole() -> None:
    answer = ask(find_model("Qwen2.5-7B"), Machine(24 << 30, 2, "gpu"))
    needs = {need.how: need for need in answer.needs}
    assert needs["lora"].fits and needs["qlora-4"].fits and needs["Q8_0"].fits
    assert not needs["full"].fits and needs["full"].rent == "H200"


def test_deepseek_v3_on_a_laptop_is_a_remote_channel_and_its_distils() -> None:
    answer = ask(find_model("DeepSeek-V3"), Machine(24 << 30, 4, "cpu"))
    assert not any(need.fits for need in answer.needs)
    told = " ".join(text.en for text in answer.advice)
    assert "channel" in told and "DeepSeek-R1-Distill-Qwen-7B" in told


def test_what_to_rent_is_the_smallest_that_holds_it() -> None:
    assert rent(20 << 30) == "RTX 4090"
    assert rent(140 << 30) == "2 x H20"
    assert rent(10**15) == ""


def test_the_command_lists_all_and_answers_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["models"]) == len(catalogue())
    assert main(["fit", "Qwen2.5-0.5B", "--memory", "24G", "--method", "lora", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["memory_bytes"] == 24 * 10**9
    assert [(need["how"], need["fits"]) for need in answer["needs"]] == [("lora", True)]
    assert main(["fit", "Qwen2.5-0.5B", "--memory", "24GiB"]) == 0
    assert "slipway pull" in capsys.readouterr().out
    assert main(["fit", "Qwen2.5-0.5B", "--memory", "much"]) == 2


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_as_large_as_training_makes_them(bits: Literal[4, 8]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from slipway.training.estimate.skeleton import weight_bytes
    from slipway.training.quantised import make_up
    from slipway.training.spec import QuantSpec

    config = AutoConfig.for_model(
        "qwen3", **{**SIZES, **TINY["qwen3"], "hidden_size": 512, "intermediate_size": 1024}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).bfloat16()
    model.tie_weights()
    whole = weight_bytes(model)
    make_up(model, QuantSpec(bits=bits))
    saved = whole - weight_bytes(model)
    shape = shape_from_config(config.to_dict(), "here")
    method: Literal["qlora-4", "qlora-8"] = "qlora-4" if bits == 4 else "qlora-8"
    plain = training_bytes(shape, "lora", base_bytes=2, tokens=1)
    packed = training_bytes(shape, method, base_bytes=2, tokens=1)
    assert plain - packed == pytest.approx(saved, rel=0.03)
