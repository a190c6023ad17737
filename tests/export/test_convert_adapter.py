"""PEFT adapter to GGUF adapter: the scale that training had, in llama.cpp's own words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.export.model_zoo import causal_model

from slipway.core.errors import InputError, ProofError, SlipwayError, ToolError, UsageError
from slipway.core.manifest import read_manifest
from slipway.core.paths import Home
from slipway.export import convert_adapter, convert_to_gguf
from slipway.export.convert import adapter as converting
from slipway.export.convert.adapter_proof import prove_logits, prove_weights
from slipway.export.merge.sources import open_source
from slipway.export.toolchain import Toolchain
from slipway.testing.tiny import tiny_model
from slipway.testing.toolchain import FakeToolchain

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers", "ignore::UserWarning:peft"
)
WEIGHTS = "adapter_model.safetensors"
SCALES: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"down_proj": 3, "layers.1.self_attn.k_proj": 20},
    },
    "both": {"use_rslora": True, "alpha_pattern": {"layers.0.self_attn.q_proj": 32}},
    "alpha 0 but for a pattern": {"lora_alpha": 0, "alpha_pattern": {"down_proj": 16}},
}


def peft_adapter(base: Path, folder: Path, **keys: Any) -> Path:
    """An adapter as PEFT itself saves it, with weights that do something."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "down_proj"], **keys}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base")


@pytest.mark.slow
@pytest.mark.parametrize("keys", SCALES.values(), ids=SCALES)
def test_llama_cpp_gives_what_base_and_adapter_give(
    base: Path, tmp_path: Path, home: Home, tools: Toolchain, keys: dict[str, Any]
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", **keys)
    made = convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert made.notes["proof"] == "logits"
    assert made.metrics["kl_mean"] < 1e-5 < 0.005 < made.metrics["adapter_kl_mean"]
    assert (made.metrics["rescaled_layers"] > 0) == bool(keys)
    assert read_manifest(tmp_path / "out", kind="gguf-adapter").digest == made.digest
    assert set(made.parents) == {"adapter", "base"}
    assert [p.name for p in (tmp_path / "out").glob("*.gguf")] == ["adapter.gguf"]
    assert not list((tmp_path / "out").glob("plain-*"))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [SCALES["rslora"], SCALES["patterns"]], ids=["rslora", "patterns"])
def test_the_scale_that_the_converter_alone_would_write_fails_both_proofs(
    base: Path, tmp_path: Path, home: Home, tools: Toolchain, keys: dict[str, Any]
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", **keys)
    convert_to_gguf(base, tmp_path / "gguf", outtype="f32", home=home)
    wrong = script(tools, adapter, base, tmp_path / "wrong.gguf")
    source = open_source(adapter)
    with pytest.raises(ProofError, match="is off by") as caught:
        prove_weights(wrong, source.adapter())
    assert caught.value.code == "convert.adapter_differs"
    with pytest.raises(ProofError, match="mean KL") as caught:
        prove_logits(
            wrong,
            tmp_path / "gguf" / "model.gguf",
            source,
            source.adapter(),
            base=base,
            toolchain=tools,
        )
    assert caught.value.code == "convert.adapter_differs"


def script(tools: Toolchain, adapter: Path, base: Path, out: Path, outtype: str = "f32") -> Path:
    command = [sys.executable, str(tools.lora_converter), str(adapter), "--base", str(base)]
    subprocess.run(
        [*command, "--outfile", str(out), "--outtype", outtype], check=True, capture_output=True
    )
    return out


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16"])
def test_a_plain_adapter_is_byte_for_byte_what_the_script_writes(
    base: Path, tmp_path: Path, home: Home, tools: Toolchain, outtype: str
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", lora_alpha=8.0)
    made = convert_adapter(
        adapter, tmp_path / "out", base=base, outtype=outtype, proof="weights", home=home
    )
    direct = script(tools, adapter, base, tmp_path / "direct.gguf", outtype)
    assert (tmp_path / "out" / "adapter.gguf").read_bytes() == direct.read_bytes()
    assert made.metrics["layers"] == 6 and made.metrics["rank_max"] == 4
    assert made.notes["proof"] == "weights" and "kl_mean" not in made.metrics


@pytest.mark.slow
def test_a_gguf_of_the_base_serves_the_proof_whatever_its_precision(
    base: Path, tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    convert_to_gguf(base, tmp_path / "q8", outtype="q8_0", home=home)
    made = convert_adapter(
        adapter, tmp_path / "out", base=base, base_gguf=tmp_path / "q8", home=home
    )
    assert 0 < made.metrics["base_kl_mean"] < 0.01
    assert made.metrics["kl_mean"] < 0.1 * made.metrics["adapter_kl_mean"]


@pytest.mark.slow
def test_a_turned_sign_fails_by_logits(
    base: Path, tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    tensors = load_file(adapter / WEIGHTS)
    out = script(tools, adapter, base, tmp_path / "adapter.gguf")
    flipped = {n: -t if "lora_B" in n else t for n, t in tensors.items()}
    save_file(flipped, adapter / WEIGHTS, metadata={"format": "pt"})
    source = open_source(adapter)
    prove_weights(out, source.adapter())  # lengths do not see a sign
    convert_to_gguf(base, tmp_path / "base-gguf", outtype="f32", home=home)
    with pytest.raises(ProofError, match="mean KL"):
        prove_logits(
            out,
            tmp_path / "base-gguf" / "model.gguf",
            source,
            source.adapter(),
            base=base,
            toolchain=tools,
        )


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("qwen2-tied", {"target_modules": ALL, "use_rslora": True}),
        ("qwen3", {"target_modules": [*ALL, "lm_head"]}),
        ("qwen3-moe", {"target_modules": ALL[:4]}),
        ("deepseek-v2", {"target_modules": ["o_proj"]}),
    ],
    ids=["qwen2", "qwen3", "qwen3-moe", "deepseek-v2"],
)
def test_adapters_of_other_families_are_proved_by_logits(
    tmp_path: Path, home: Home, tools: Toolchain, family: str, keys: dict[str, Any]
) -> None:
    base = causal_model(family, tmp_path / family)
    adapter = peft_adapter(base, tmp_path / "adapter", **keys)
    made = convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert made.notes["proof"] == "logits"
    assert made.metrics["kl_mean"] < 0.01 * made.metrics["adapter_kl_mean"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa"])
def test_what_llama_cpp_leaves_out_is_refused_and_would_fail_the_proof(
    tmp_path: Path, home: Home, tools: Toolchain, module: str
) -> None:
    base = causal_model("deepseek-v2", tmp_path / "deepseek")
    adapter = peft_adapter(base, tmp_path / "adapter", target_modules=[module])
    with pytest.raises(UsageError, match=module) as caught:
        convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert caught.value.code == "convert.no_plain_lora"
    out = script(tools, adapter, base, tmp_path / "adapter.gguf")
    command = [sys.executable, str(tools.converter), str(base), "--outtype", "f32"]
    gguf = tmp_path / "base.gguf"
    subprocess.run([*command, "--outfile", str(gguf)], check=True, capture_output=True)
    source = open_source(adapter)
    with pytest.raises(ProofError, match="mean KL"):
        prove_logits(out, gguf, source, source.adapter(), base=base, toolchain=tools)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["norm"]}, "norm"),
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
    ids=["dora", "norm", "embeddings", "tied head"],
)
def test_what_no_gguf_adapter_can_hold_is_refused_with_the_way_out(
    base: Path, tmp_path: Path, home: Home, keys: dict[str, Any], reason: str
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", **keys)
    with pytest.raises(UsageError, match=reason) as caught:
        convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert caught.value.code == "convert.no_plain_lora"
    assert f"slipway merge {adapter}" in caught.value.hint_en
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_adds_nothing_is_refused(
    base: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, monkeypatch, "raise SystemExit('must not run')")
    adapter = peft_adapter(base, tmp_path / "adapter", lora_alpha=0)
    with pytest.raises(ProofError) as caught:
        convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert caught.value.code == "merge.unchanged"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base", "tools"]


@pytest.mark.parametrize(
    ("option", "value"), [("outtype", "q4_k"), ("outtype", "bf61"), ("proof", "logit")]
)
def test_an_unknown_word_is_refused_with_the_known_ones(
    tmp_path: Path, home: Home, option: str, value: str
) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(UsageError, match=value):
        convert_adapter(tmp_path, tmp_path / "out", home=home, **options)


def test_without_a_base_the_command_with_one_is_named(
    base: Path, tmp_path: Path, home: Home
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    with pytest.raises(UsageError) as caught:
        convert_adapter(adapter, tmp_path / "out", home=home)
    assert f"slipway convert {adapter} --base" in caught.value.hint_en


def test_a_damaged_adapter_is_named(base: Path, tmp_path: Path, home: Home) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    (adapter / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(InputError, match="adapter"):
        convert_adapter(adapter, tmp_path / "out", base=base, home=home)


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converter: str) -> None:
    made = FakeToolchain(tmp_path / "tools")
    (made.source / "convert_lora_to_gguf.py").write_text(converter)
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(made.folder))


@pytest.mark.parametrize(
    ("converter", "code"),
    [
        ("raise NotImplementedError", "convert.adapter_failed"),
        ("raise OSError(28, 'No space left on device')", "disk.full"),
        ("raise SystemExit('Model FooForCausalLM is not supported')", "convert.unsupported"),
        ("pass", "convert.failed"),
    ],
)
def test_a_failed_conversion_leaves_nothing(
    base: Path,
    tmp_path: Path,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    converter: str,
    code: str,
) -> None:
    fake(tmp_path, monkeypatch, converter)
    adapter = peft_adapter(base, tmp_path / "adapter", use_rslora=True)
    with pytest.raises(SlipwayError) as caught:
        convert_adapter(adapter, tmp_path / "out", base=base, home=home)
    assert caught.value.code == code
    if isinstance(caught.value, ToolError) and code == "convert.adapter_failed":
        assert "slipway merge" in caught.value.hint_en
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base", "tools"]


def test_only_the_layers_that_need_it_are_rescaled(base: Path, tmp_path: Path) -> None:
    keys = {"alpha_pattern": {"down_proj": 3}}
    source = open_source(peft_adapter(base, tmp_path / "adapter", **keys))
    (tmp_path / "work").mkdir()
    plain, count = converting._plain_lora(source, source.adapter(), tmp_path / "work")
    before, after = load_file(tmp_path / "adapter" / WEIGHTS), load_file(plain / WEIGHTS)
    for name, tensor in before.items():
        factor = 3 / 8 if "down_proj" in name and "lora_B" in name else 1.0
        torch.testing.assert_close(after[name], factor * tensor)
    assert count == 2
    config = json.loads((plain / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 8 and plain.name == "adapter"
