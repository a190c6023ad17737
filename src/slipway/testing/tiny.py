"""A real tokenizer and a real Llama, small enough for a unit test, that llama.cpp accepts.

The tokenizer belongs to the Llama-2 family (BPE with byte fallback, spaces as "▁"), which the
converter of llama.cpp knows by its structure; byte-level tokenizers it knows only by a hash over
their ids, which a made-up vocabulary cannot have. The converter writes no merge ranks for this
family and llama.cpp then merges left to right, so the merges here are such that the order cannot
matter: a consonant followed by a vowel, and no token is longer. Both sides give the same ids for
every text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BOS, END, UNKNOWN = "<|im_start|>", "<|im_end|>", "<unk>"
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_VOWELS = "aeiouy"
_HANZI = "的一是我你您好请在有不了货退款单订快递发票天问题可以们为您服务"


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = [(c, v) for c in _CONSONANTS for v in _VOWELS]
    pieces = [UNKNOWN, BOS, END]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", *(chr(code) for code in range(0x21, 0x7F))]
    pieces += dict.fromkeys(_HANZI)
    pieces += [first + second for first, second in merges]
    return {piece: index for index, piece in enumerate(pieces)}, merges


def tiny_tokenizer(folder: Path) -> Path:
    """Write a fast tokenizer with a ChatML template (tokenizer.json, config, template).

    Vocabulary: three special tokens, 256 bytes, ASCII, a few Chinese characters, 120 syllables.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    vocab, merges = _vocabulary()
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (UNKNOWN, BOS, END)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": END,
        "unk_token": UNKNOWN,
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    _write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return folder


def tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a random two-layer Llama (hidden 64, float32, 130,000 weights) with its tokenizer.

    The folder is what `transformers` calls a pretrained model. Output and input embeddings are
    tied. The same seed gives the same weights; the caller's random state is left as it was.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer(folder)
    vocab, _ = _vocabulary()
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=vocab[BOS],
        eos_token_id=vocab[END],
        pad_token_id=vocab[END],
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
