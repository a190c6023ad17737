"""Texts on which the merged model is compared with base + adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from slipway.core.errors import SlipwayError

_TOKENS = 512
_LEAST = 128
_LOGITS_BYTES = 48 << 20
_PROBES = (
    ("Hello! Who are you, and what can you do for me?", "I answer questions and help with orders."),
    ("My parcel has not arrived. Order 48213.", "I am sorry. Let me look at where it is."),
    ("Name three colours and a number above ten.", "Red, green, blue, and seventeen."),
    ("我想退货，应该怎么办？", "您可以在签收后七天内申请退货。"),
    ("def area(r):", "    return 3.14159 * r * r"),
)


def probe_tokens(vocabulary: int) -> int:
    """How many positions are compared: fewer where each has many logits."""
    return max(_LEAST, min(_TOKENS, _LOGITS_BYTES // (4 * max(vocabulary, 1))))


def probes(model: Path, run_dir: Path | None, tokens: int = _TOKENS) -> list[list[int]]:
    """Token ids to compare on: held-out rows of the run's data, then fixed ones, about `tokens`."""
    return list(_probes(model, run_dir, tokens))


def _probes(model: Path, run_dir: Path | None, tokens: int) -> Iterator[list[int]]:
    from slipway.datasets import load_tokenizer

    tokenizer = load_tokenizer(model, chat=False)
    left = tokens
    for ids in _held_out(run_dir, tokenizer) if run_dir is not None else []:
        if left - len(ids) < tokens // 3:
            break
        left -= len(ids)
        yield ids
    for question, answer in _PROBES:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            text = f"{question}\n{answer}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:left]
        left -= len(ids)
        if ids:
            yield ids


def _held_out(run_dir: Path, tokenizer: object) -> list[list[int]]:
    from slipway.datasets import encode_all, load_dataset
    from slipway.training.spec.keys import as_sources

    try:
        recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text(encoding="utf-8"))
        data = Path(as_sources(recipe["data"])[0].path)
        rows = encode_all(load_dataset(data, "heldout"), tokenizer, 256).rows
    except (SlipwayError, OSError, KeyError):  # the data may be gone: the fixed probes remain
        return []
    return [list(row.input_ids) for row in rows[:8]]
