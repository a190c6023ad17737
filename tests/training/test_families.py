"""Model families besides Llama: trained with the same loss as their own, or refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.core.errors import SlipwayError
from slipway.datasets import Encoded
from slipway.training import lora
from slipway.training.batch import batches, losses
from slipway.training.model import load_base, prove_loss

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def family(folder: Path, config_name: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**SMALL, **more})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_base(folder, torch.float32, CPU)


def documents() -> list[Encoded]:
    rows = []
    for number, length in enumerate((30, 12, 14, 41)):
        ids = [(7 * number + 5 * at) % 117 + 3 for at in range(length)]
        rows.append(Encoded(str(number), ids, [-100] * 5 + ids[5:]))
    return rows


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("Qwen2Config", {}),
        ("Qwen3Config", {}),
        ("MistralConfig", {"sliding_window": 64}),
        ("GemmaConfig", {}),
        ("LlamaConfig", {"attention_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_packed_loss_equals_the_familys_own_and_every_adapter_learns(
    config: str, more: dict[str, Any], tmp_path: Path
) -> None:
    model = family(tmp_path, config, **more)
    assert prove_loss(model, documents(), CPU) < 1e-4
    lora.attach(model, rank=2, alpha=4.0, dropout=0.0, target="all")
    model.train()
    ((_, batch),) = batches(documents(), 256, CPU)
    losses(model, batch).sum().backward()
    for name, layer in lora.adapters(model):
        assert layer.lora_b.grad is not None, name
        assert float(layer.lora_b.grad.abs().max()) > 0, name


@pytest.mark.parametrize(
    ("config", "more", "names"),
    [
        ("MistralConfig", {"sliding_window": 8}, "sliding_window"),
        ("Gemma2Config", {}, "softcap"),
    ],
)
def test_a_family_whose_attention_does_more_is_refused_by_name(
    config: str, more: dict[str, Any], names: str, tmp_path: Path
) -> None:
    model = family(tmp_path, config, **more)
    with pytest.raises(SlipwayError, match=names):
        prove_loss(model, documents(), CPU)
