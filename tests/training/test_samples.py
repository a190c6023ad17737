from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slipway.datasets import load_tokenizer
from slipway.training import lora
from slipway.training.model import load_base
from slipway.training.samples import answers, end_tokens


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    model = load_base(base, torch.float32, torch.device("cpu"))
    torch.manual_seed(0)
    lora.attach(model, rank=4, alpha=8.0, dropout=0.5, target="all")
    for _, adapter in lora.adapters(model):
        torch.nn.init.normal_(adapter.lora_b, std=0.2)
    return model


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return load_tokenizer(base)


def test_answers_are_those_of_a_forward_pass_over_everything_for_each_token(
    model: Any, tokenizer: Any
) -> None:
    (found,) = answers(model, tokenizer, ["can i return my cup"], max_new_tokens=12)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "can i return my cup"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    model.set_attn_implementation("eager")
    slow: list[int] = []
    with torch.inference_mode():
        model.eval()
        while len(slow) < 12 and (not slow or slow[-1] not in end_tokens(model, tokenizer)):
            logits = model(input_ids=torch.tensor([ids + slow]), use_cache=False).logits
            slow.append(int(logits[0, -1].argmax()))
    model.set_attn_implementation("slipway_packed")
    assert found.tokens == len(slow)
    assert found.text == tokenizer.decode(slow, skip_special_tokens=True).strip()
    assert not found.ended


def test_mode_attention_and_random_state_are_as_before(model: Any, tokenizer: Any) -> None:
    model.train()
    before = (model.config._attn_implementation, torch.get_rng_state())
    first = answers(model, tokenizer, ["hello", "您好"], max_new_tokens=4)
    assert model.training
    assert model.config._attn_implementation == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert answers(model, tokenizer, ["hello", "您好"], max_new_tokens=4) == first
    assert [answer.prompt for answer in first] == ["hello", "您好"]


def test_an_answer_ends_at_an_end_token_and_a_stop_leaves_the_model_usable(
    model: Any, tokenizer: Any
) -> None:
    (free,) = answers(model, tokenizer, ["hello"], max_new_tokens=3, plain=True)
    assert (free.tokens, free.ended) == (3, False)
    ids = tokenizer(free.text)["input_ids"]

    def stop() -> None:
        raise KeyboardInterrupt

    model.eval()
    with pytest.raises(KeyboardInterrupt):
        answers(model, tokenizer, ["hello"], stop=stop)
    assert not model.training
    assert ids
    before = model.config.eos_token_id
    model.config.eos_token_id = list(range(len(tokenizer)))
    try:
        (one,) = answers(model, tokenizer, ["hello"])
    finally:
        model.config.eos_token_id = before
    assert (one.tokens, one.ended, one.text) == (1, True, "")


def test_without_prompts_nothing_is_done(tokenizer: Any) -> None:
    assert answers(None, tokenizer, []) == []
