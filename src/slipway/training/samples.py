"""Answers to fixed questions while a model learns: greedy, with the model's own KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from slipway.training import attention

MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote to a prompt.

    Attributes:
        ended: it ended by itself; else it was cut after so many tokens.
    """

    prompt: str
    text: str
    tokens: int
    ended: bool


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    plain: bool = False,
    system: str | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    stop: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """The likeliest answer of a loaded model to each prompt.

    Nothing random is drawn and the mode is put back, so a run with samples takes the same steps
    as one without.

    Args:
        plain: go on with the text as it is (stage pt); else the prompt is a user's turn.
        system: the system turn that training gave to conversations without one.
        stop: called before each token; may raise.
    """
    if not prompts:
        return []
    ends = end_tokens(model, tokenizer)
    found = []
    with generating(model):
        for prompt in prompts:
            ids = _ids(tokenizer, prompt, plain, system)
            new = _greedy(model, ids, ends, max_new_tokens, stop)
            ended = bool(new) and new[-1] in ends
            text = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
            found.append(Answer(prompt, text.strip(), len(new), ended))
    return found


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, by config, generation config and tokenizer."""
    given = [
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ]
    ids: set[int] = set()
    for value in given:
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def _ids(tokenizer: Any, prompt: str, plain: bool, system: str | None) -> list[int]:
    if plain:
        return list(tokenizer(prompt)["input_ids"]) or [tokenizer.eos_token_id]
    turns = [{"role": "system", "content": system}] if system else []
    text = tokenizer.apply_chat_template(
        [*turns, {"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@contextmanager
def generating(model: Any) -> Iterator[None]:
    """Evaluation mode and an attention that knows caches; afterwards as it was."""
    training, before = model.training, model.config._attn_implementation
    model.eval()
    if before == attention.NAME:
        model.set_attn_implementation("sdpa")
    try:
        with torch.no_grad():
            yield
    finally:
        if before == attention.NAME:
            model.set_attn_implementation(before)
        model.train(training)


def _greedy(
    model: Any, ids: list[int], ends: frozenset[int], limit: int, stop: Callable[[], None]
) -> list[int]:
    device = next(model.parameters()).device
    given = torch.tensor([ids], device=device)
    cache = None
    new: list[int] = []
    while len(new) < limit:
        stop()
        out = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        new.append(token)
        if token in ends:
            break
        given = torch.tensor([[token]], device=device)
    return new
