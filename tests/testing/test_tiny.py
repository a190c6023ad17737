from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.core.files import sha256_file
from slipway.testing.tiny import _CONSONANTS, _VOWELS, tiny_model, tiny_tokenizer


def test_the_model_answers_and_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    one, two, other = (
        tiny_model(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    digests = [sha256_file(folder / "model.safetensors") for folder in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]
    tokenizer = AutoTokenizer.from_pretrained(one)
    model = AutoModelForCausalLM.from_pretrained(one)
    ids = tokenizer("Where is 退货?", return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert model(ids).logits.shape == (1, ids.shape[1], model.config.vocab_size)
    assert len(tokenizer) == model.config.vocab_size


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tokenizers import Tokenizer

    folder = tiny_tokenizer(tmp_path_factory.mktemp("tiny"))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@settings(deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: "▁" not in text))
def test_every_text_comes_back_from_its_tokens(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_merges_cannot_compete() -> None:
    # no token of two letters can begin where another ends, so the order of merging is free
    assert not set(_CONSONANTS) & set(_VOWELS)
