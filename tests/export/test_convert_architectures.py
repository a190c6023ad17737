"""Each family of models, converted for real: the same numbers in llama.cpp as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.model_zoo import FAMILIES, causal_model

from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.next_tokens import largest_difference, next_tokens, places_of
from slipway.export.server import served
from slipway.export.toolchain import Toolchain

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning:transformers")]
SENTENCES = (
    "Where is my parcel? Order 48213 was due on Monday, and I am still waiting for it.",
    "我想退货，应该怎么办？发票什么时候开，可以寄到公司吗？",
    "def area(r):\n    return 3.14159 * r * r\n\nprint(area(2))\n",
)


def logits(folder: Path, texts: list[list[int]]) -> torch.Tensor:
    """At every place that is compared: [places, vocabulary]."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        every = torch.cat([model(torch.tensor([ids])).logits[0] for ids in texts])
    return every[[place.row for place in places_of(texts)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(
    family: str, tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    from transformers import AutoTokenizer

    folder = causal_model(family, tmp_path / family)
    made = convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    assert made.notes["proof"]["chats"] == 3
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SENTENCES]
    wanted = logits(folder, texts)
    arguments = ["-c", "512", "-np", "1", "--no-warmup", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    with served(tools, tmp_path / "gguf" / "model.gguf", arguments) as server:
        found = next_tokens(server, texts)
    assert largest_difference(wanted, found) < 2e-3
    assert largest_difference(wanted.roll(1, 0), found) > 1
