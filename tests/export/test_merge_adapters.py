"""Adapters of PEFT, several at once, number formats, shards, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipway.core.errors import InputError, NotFoundError, ProofError, SlipwayError, UsageError
from slipway.core.i18n import Text
from slipway.core.manifest import read_manifest
from slipway.export.merge import merge_adapters
from slipway.export.merge import proof as proving
from slipway.export.merge.streamed import CannotStreamError, streamed_logits
from slipway.testing.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers", "ignore::UserWarning:peft"
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def peft_adapter(
    base: Path, folder: Path, *, seed: int = 0, size: float = 0.3, **keys: Any
) -> Path:
    """An adapter as PEFT itself saves it, with weights that do something."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **keys}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(size * torch.randn_like(parameter) / 8)
    made.save_pretrained(folder, save_embedding_layers=False)
    return folder


def peft_merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}


def shard(base: Path, count: int = 3) -> Path:
    """Lay the base out in several shards with an index, as large models are."""
    tensors = load_file(base / WEIGHTS)
    (base / WEIGHTS).unlink()
    names = sorted(tensors)
    places = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        mine = {name: tensors[name] for name in names[number::count]}
        save_file(mine, base / file, metadata={"format": "pt"})
        places |= dict.fromkeys(mine, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (base / INDEX).write_text(json.dumps(index))
    return base


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"modules_to_save": ["model.norm"]},
    ],
    ids=["lora", "rslora", "dora", "patterns", "extra"],
)
def test_an_adapter_of_peft_gives_what_peft_gives(
    base: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", **keys)
    made = merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base)
    wanted = peft_merged(base, adapter)
    for name, tensor in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)
    assert made.notes["proof"] == "logits, one layer at a time"
    assert made.metrics["kl_mean"] < 1e-6 < made.metrics["adapter_kl_mean"]
    assert set(made.parents) == {"adapter", "base"}


def test_several_adapters_are_summed_by_their_weights(base: Path, tmp_path: Path) -> None:
    first = peft_adapter(base, tmp_path / "a", seed=1)
    second = peft_adapter(base, tmp_path / "b", seed=2, r=8, use_rslora=True)
    made = merge_adapters([(first, 0.7), (second, -0.5)], tmp_path / "out", base=base)
    before, one, two = (
        load_file(base / WEIGHTS),
        peft_merged(base, first),
        peft_merged(base, second),
    )
    for name, tensor in tensors_of(tmp_path / "out").items():
        wanted = before[name] + 0.7 * (one[name] - before[name]) - 0.5 * (two[name] - before[name])
        torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)
    assert made.notes["weights"] == [["a", 0.7], ["b", -0.5]]
    assert set(made.parents) == {"adapter", "adapter-2", "base"}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["model.norm"]}, "model.norm")],
)
def test_what_is_no_sum_is_not_summed(
    base: Path, tmp_path: Path, keys: dict[str, Any], reason: str
) -> None:
    plain = peft_adapter(base, tmp_path / "a")
    other = peft_adapter(base, tmp_path / "b", **keys)
    for parts in ([(plain, 1.0), (other, 1.0)], [(other, 0.5)]):
        with pytest.raises(UsageError, match=reason) as caught:
            merge_adapters(parts, tmp_path / "out", base=base)
        assert caught.value.code == "merge.not_linear"


def test_an_output_head_that_changes_alone_is_untied(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    made = merge_adapters([(adapter, 1.0)], tmp_path / "out", base=shard(base))
    assert made.notes["untied"] == "lm_head.weight"
    after = tensors_of(tmp_path / "out")
    assert not after["lm_head.weight"].equal(after["model.embed_tokens.weight"])
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in after.values())
    assert set(index["weight_map"]) == set(after)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("dtype", "torch_dtype", "name"),
    [("bf16", torch.bfloat16, "bfloat16"), ("fp16", torch.float16, "float16")],
)
def test_another_number_format_changes_weights_index_and_one_word_of_the_config(
    base: Path, tmp_path: Path, dtype: str, torch_dtype: torch.dtype, name: str
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    shard(base)
    merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base, dtype=dtype)
    wanted = peft_merged(tmp_path / "base", adapter)
    for key, tensor in tensors_of(tmp_path / "out").items():
        assert tensor.dtype == torch_dtype
        torch.testing.assert_close(tensor.float(), wanted[key], rtol=2**-7, atol=1e-4)
    assert sorted(p.name for p in base.iterdir()) == sorted(
        p.name for p in (tmp_path / "out").iterdir() if p.name != "manifest.json"
    )
    before, after = (json.loads((f / INDEX).read_text()) for f in (base, tmp_path / "out"))
    assert after["metadata"]["total_size"] * 2 == before["metadata"]["total_size"]
    assert after["weight_map"] == before["weight_map"]
    text = (base / "config.json").read_text()
    assert (tmp_path / "out" / "config.json").read_text() == text.replace("float32", name)


def test_a_weight_too_large_for_fp16_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    tensors = load_file(base / WEIGHTS)
    tensors["model.norm.weight"][3] = 70_000.0
    save_file(tensors, base / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ProofError, match=r"model\.norm\.weight") as caught:
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base, dtype="fp16")
    assert caught.value.code == "merge.fp16_overflow"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base"]


def test_layers_prove_what_logits_prove(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter", use_dora=True)
    made = merge_adapters(
        [(adapter, 1.0)], tmp_path / "out", base=base, dtype="bf16", proof="layers"
    )
    assert made.notes["proof"] == "layers"
    assert made.metrics["layers_proved"] == 4 == made.metrics["changed_tensors"]
    assert made.metrics["layer_error_max"] < 2**-8
    assert made.metrics["layer_effect_lost"] < 0.1


def test_a_damaged_layer_fails_the_proof_by_layers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.export.merge import write as writing

    original = writing.merged_weight

    def off(change: Any, weight: torch.Tensor, name: str) -> torch.Tensor:
        return original(change, weight, name) * (1.05 if "1.mlp" in name else 1.0)

    monkeypatch.setattr(writing, "merged_weight", off)
    adapter = peft_adapter(base, tmp_path / "adapter")
    with pytest.raises(ProofError, match=r"layers\.1\.mlp\.down_proj") as caught:
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base, proof="layers")
    assert caught.value.code == "merge.differs"
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_streamed_is_proved_in_memory_or_by_layers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(*_: object) -> None:
        raise CannotStreamError("model.layers.0.mlp.experts.gate_up_proj")

    monkeypatch.setattr(proving, "streamed_logits", fused)
    parts = [(peft_adapter(base, tmp_path / x, seed=n), 0.5) for n, x in enumerate("ab")]
    made = merge_adapters(parts, tmp_path / "out", base=base)
    assert made.notes["proof"] == "logits, model in memory"
    assert made.notes["proof_dtype"] == "float32" and made.metrics["kl_mean"] < 1e-6
    monkeypatch.setattr(proving, "available_memory_bytes", lambda: 1000)
    assert merge_adapters(parts, tmp_path / "out", base=base).notes["proof"] == "layers"
    with pytest.raises(SlipwayError) as caught:
        merge_adapters(parts, tmp_path / "out", base=base, proof="logits")
    assert "--proof layers" in caught.value.hint_en


def test_streamed_logits_are_those_of_the_loaded_model(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    probes = [[5, 9, 200, 31, 7], [3, 4], [300, 301, 302, 303]]
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    with torch.inference_mode():
        wanted = torch.cat([model(torch.tensor([ids])).logits[0] for ids in probes])
    torch.testing.assert_close(streamed_logits(shard(base), probes), wanted, rtol=1e-4, atol=1e-4)


def set_config(base: Path, **keys: Any) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **keys}))


def quantised(base: Path, adapter: Path) -> None:
    set_config(base, quantization_config={"quant_method": "gptq", "bits": 4})


def other_shape(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    wide = {n: torch.cat([t, t], 1) if "lora_A" in n else t for n, t in tensors.items()}
    save_file(wide, adapter / "adapter_model.safetensors")


def zero(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({n: t * 0 for n, t in tensors.items()}, adapter / "adapter_model.safetensors")


def not_a_number(base: Path, adapter: Path) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")


def cut_shard(base: Path, adapter: Path) -> None:
    path = base / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def missing_shard(base: Path, adapter: Path) -> None:
    shard(base)
    next(base.glob("model-00002*")).unlink()


def transposed(base: Path, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fan_in_fan_out": True}))


@pytest.mark.parametrize(
    ("fault", "code", "named"),
    [
        (quantised, "merge.quantised_base", "gptq"),
        (other_shape, "merge.adapter_misfit", "proj"),
        (zero, "merge.unchanged", "adapter"),
        (not_a_number, "merge.not_finite", "proj"),
        (cut_shard, "model.truncated", "cut short"),
        (missing_shard, "file.not_found", "model-00002-of-00003"),
        (transposed, "adapter.unsupported", "fan_in_fan_out"),
    ],
)
def test_a_fault_is_refused_by_name_and_leaves_nothing(
    base: Path, tmp_path: Path, fault: Callable[[Path, Path], None], code: str, named: str
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    fault(base, adapter)
    with pytest.raises(SlipwayError) as caught:
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base)
    assert caught.value.code == code and named in caught.value.message_en
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base"]


def test_an_adapter_without_a_base_says_what_it_was_made_on(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    with pytest.raises(UsageError, match=str(base)) as caught:
        merge_adapters([(adapter, 1.0)], tmp_path / "out")
    assert "--base" in caught.value.hint_en
    with pytest.raises(NotFoundError):
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=tmp_path / "nothing")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError) as caught:
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=tmp_path / "m.gguf")
    assert caught.value.code == "merge.gguf_base"


def test_weights_in_other_formats_and_strays_are_not_taken_for_the_merged_model(
    base: Path, tmp_path: Path
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    shutil.copyfile(base / WEIGHTS, base / "consolidated.safetensors")
    (base / "pytorch_model.bin").write_bytes(b"old")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "rag.jinja").write_text("{{ 1 }}")
    made = merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base)
    assert made.notes["left_out"] == ["consolidated.safetensors", "pytorch_model.bin"]
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").is_file()
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


def test_a_template_of_the_adapters_own_is_told(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    said: list[Text] = []
    merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base, say=said.append)
    assert "chat template" in said[0].en
    mine = (tmp_path / "out" / "chat_template.jinja").read_bytes()
    assert mine == (base / "chat_template.jinja").read_bytes()


def test_a_killed_merge_leaves_nothing_and_the_next_one_clears_up(
    base: Path, tmp_path: Path
) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from slipway.export.merge import run\n"
        "run.prove = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "here = Path(sys.argv[1])\n"
        "run.merge_adapters([(here / 'adapter', 1.0)], here / 'out', base=here / 'base')\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists() and list(tmp_path.glob(".out.*"))
    made = merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base)
    assert read_manifest(tmp_path / "out").digest == made.digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base", "out"]


def test_unknown_options_name_the_known_ones(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    for options, code in ((("bf61", "auto"), "merge.unknown_dtype"), (("bf16", "x"), "merge.unkn")):
        with pytest.raises(UsageError) as caught:
            merge_adapters(
                [(adapter, 1.0)], tmp_path / "out", base=base, dtype=options[0], proof=options[1]
            )
        assert caught.value.code.startswith(code)


def test_an_unreadable_adapter_is_named(base: Path, tmp_path: Path) -> None:
    adapter = peft_adapter(base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="adapter"):
        merge_adapters([(adapter, 1.0)], tmp_path / "out", base=base)
