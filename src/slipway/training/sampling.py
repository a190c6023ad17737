"""Several drawn answers to one prompt: with the model's own KV cache, and no padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Drawn:
    """One answer.

    Attributes:
        tokens: with the token that ended it.
        ended: it ended by itself; else it was cut.
    """

    tokens: list[int]
    ended: bool


def draw(
    model: Any,
    prompt: Sequence[int],
    count: int,
    *,
    ends: frozenset[int],
    limit: int,
    temperature: float,
    stop: Callable[[], None],
) -> list[Drawn]:
    """Draw `count` answers, by torch's own random state.

    The prompt is read once; its cache is repeated for the answers, which grow together, so no row
    is ever filled up. The model must be in evaluation mode, with an attention that knows caches.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        limit: longest answer, tokens.
        stop: called before each token; may raise.
    """
    device = next(model.parameters()).device
    given = torch.tensor([list(prompt)], device=device)
    out = model(input_ids=given, use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits[:, -1]
    if count > 1:
        cache.batch_repeat_interleave(count)
        logits = logits.repeat_interleave(count, 0)
    answers: list[list[int]] = [[] for _ in range(count)]
    running = [True] * count
    while True:
        stop()
        if temperature:
            chances = torch.softmax(logits.float() / temperature, -1)
            tokens = torch.multinomial(chances, 1)[:, 0]
        else:
            tokens = logits.argmax(-1)
        for at, token in enumerate(tokens.tolist()):
            if running[at]:
                answers[at].append(token)
                running[at] = token not in ends and len(answers[at]) < limit
        if not any(running):
            break
        out = model(
            input_ids=tokens[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache, logits = out.past_key_values, out.logits[:, -1]
    return [Drawn(answer, answer[-1] in ends) for answer in answers]
