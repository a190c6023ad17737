"""Rows, samples and a second tokenizer for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slipway.datasets import Message, Sample
from slipway.testing.tiny import CHATML

Rows = list[dict[str, Any]]


def row(*turns: str, **extra: Any) -> dict[str, Any]:
    """An OpenAI row of turns that alternate user, assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return {"messages": messages, **extra}


def sample(*turns: str, system: str = "") -> Sample:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(turns)]  # type: ignore[arg-type]
    head = [Message("system", system)] if system else []
    return Sample("s", (*head, *messages), Path("rows.jsonl"), 7)


def byte_level_tokenizer(folder: Path) -> Path:
    """A GPT-2-like tokenizer (spaces belong to words, characters split into bytes) with ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # this post-processor trims spaces off the offsets, as GPT-2's does
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["where is my order, it is late \n\n", "yes you can return it within 30 days"] * 20, trainer
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return folder
