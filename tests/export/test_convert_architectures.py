"""Each family of models, converted for real: the same numbers in llama.cpp as in transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.model_zoo import FAMILIES, bert, causal_model, xlm_roberta
from tests.shared_home import shared_home

from slipway.core.errors import InputError, ToolError
from slipway.core.i18n import Text
from slipway.core.paths import Home
from slipway.export import convert_to_gguf
from slipway.export.handover import inspect
from slipway.export.next_tokens import largest_difference, next_tokens, places_of
from slipway.export.server import served
from slipway.export.toolchain import Toolchain
from slipway.store.pull import STARTER_EMBED, pull_base

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
    folder = causal_model(family, tmp_path / family)
    made = convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    proof = made.notes["proof"]
    assert proof["chats"] == 3 and "warnings" not in made.notes
    # llama.cpp leaves an e and its accent apart, where Qwen's tokenizer composes them
    assert any("naïve" in told for told in proof["rare_differences"]) == ("qwen" in family)
    assert difference(folder, tmp_path / "gguf" / "model.gguf", tools) < 2e-3
    assert difference(folder, tmp_path / "gguf" / "model.gguf", tools, turn=1) > 1


def difference(folder: Path, gguf: Path, tools: Toolchain, *, turn: int = 0) -> float:
    """Largest difference of log-probabilities; with `turn` between different places."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in SENTENCES]
    wanted = logits(folder, texts)
    arguments = ["-c", "512", "-np", "1", "--no-warmup", "-fa", "off", "-ctk", "f32", "-ctv", "f32"]
    with served(tools, gguf, arguments) as server:
        return largest_difference(wanted.roll(turn, 0), next_tokens(server, texts))


def test_a_tokenizer_that_cuts_words_otherwise_is_refused(
    tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    folder = causal_model("deepseek-v2", tmp_path / "deepseek")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\s+|\S+"}
    path.write_text(json.dumps(content))
    with pytest.raises(ToolError) as caught:
        convert_to_gguf(folder, tmp_path / "out", home=home)
    assert caught.value.code == "convert.unsupported" and "tokenizer" in caught.value.message_en
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_transformers_replaces_is_told(
    tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    """The type of one house, the tokenizer of another."""
    folder = causal_model("qwen2", tmp_path / "distilled", tokenizer="deepseek")
    said: list[Text] = []
    with pytest.raises(InputError) as caught:  # Qwen's class adds its own special tokens
        convert_to_gguf(folder, tmp_path / "out", home=home, say=said.append)
    assert caught.value.code == "convert.vocabulary_too_large"
    assert len(said) == 1 and "`Qwen2Tokenizer`" in said[0].en


@pytest.mark.parametrize("added", [1, 3])
def test_tokens_added_at_the_end_leave_the_tokenizer_known(
    tmp_path: Path, home: Home, tools: Toolchain, added: int
) -> None:
    from transformers import AutoTokenizer

    folder = causal_model("qwen2", tmp_path / "qwen2")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<|shop_{number}|>" for number in range(added)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    made = convert_to_gguf(folder, tmp_path / "out", home=home)
    assert made.notes["proof"]["chats"] == 3


MISREAD: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    "qwen3-moe": ("qwen3-moe", {"norm_topk_prob": False}, "model.expert_weights", True),
    "qwen2-moe": ("qwen2-moe", {"norm_topk_prob": True}, "model.expert_weights", True),
    "deepseek-v3": ("deepseek-v3", {"scoring_func": None}, "model.no_scoring_func", True),
    "deepseek-v2": (
        "deepseek-v2",
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        "model.expert_groups",
        False,
    ),
}


@pytest.mark.parametrize("case", MISREAD)
def test_what_llama_cpp_computes_otherwise_is_known_and_told(
    case: str, tmp_path: Path, tools: Toolchain
) -> None:
    """If one of these passes as equal one day, the fault can go."""
    family, keys, code, fatal = MISREAD[case]
    more = {"n_routed_experts": 8} if family.startswith("deepseek") else {}
    folder = causal_model(family, tmp_path / family, **more, **keys)
    assert [(fault.code, fault.fatal) for fault in inspect(folder)] == [(code, fatal)]
    gguf = tmp_path / "direct.gguf"
    command = [sys.executable, str(tools.converter), str(folder), "--outfile", str(gguf)]
    subprocess.run([*command, "--outtype", "f32"], check=True, capture_output=True)
    assert difference(folder, gguf, tools) > 0.05


def vectors(folder: Path, texts: tuple[str, ...], *, mean: bool) -> torch.Tensor:
    """The sentence vectors of transformers, of unit length: [texts, width]."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = [model(**tokenizer(text, return_tensors="pt"))[0][0] for text in texts]
    pooled = torch.stack([one.mean(0) if mean else one[0] for one in states])
    return torch.nn.functional.normalize(pooled, dim=-1)


@pytest.mark.parametrize("family", ["minilm", "bge", "xlm-roberta"])
def test_sentence_vectors_are_those_of_transformers(
    family: str, tmp_path: Path, home: Home, tools: Toolchain
) -> None:
    minilm = pull_base(STARTER_EMBED, home=shared_home())
    folder = {
        "minilm": lambda: minilm,
        "bge": lambda: bert(tmp_path / "bge", minilm),
        "xlm-roberta": lambda: xlm_roberta(tmp_path / "xlm"),
    }[family]()
    made = convert_to_gguf(folder, tmp_path / "gguf", outtype="f32", home=home)
    assert made.notes["proof"]["texts"] > 10 and not made.notes["proof"]["template"]
    texts = ("Where is my order?", "Can I return the shoes?", "the parcel was for my company")
    wanted = vectors(folder, texts, mean=family == "minilm")
    arguments = ["-c", "512", "-np", "1", "--no-warmup", "--embeddings", "-fa", "off"]
    with served(tools, tmp_path / "gguf" / "model.gguf", arguments) as server:
        answers = [server.post("/v1/embeddings", {"input": text}) for text in texts]
    found = torch.tensor([answer["data"][0]["embedding"] for answer in answers])
    assert (found - wanted).abs().max() < 5e-4  # llama.cpp reads GELU from a table in fp16
    assert (found - vectors(folder, texts, mean=family != "minilm")).abs().max() > 1e-2
