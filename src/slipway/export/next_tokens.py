"""What llama.cpp thinks of the next token, to be compared with the logits of `transformers`.

The server gives the likeliest tokens of one position for each request; so some positions of each
text are asked for, and what is compared is the divergence over those tokens and all others as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.export.server import Server

if TYPE_CHECKING:
    from torch import Tensor

_EVERY = 6
_TOP = 256


@dataclass(frozen=True, slots=True)
class Place:
    """A position at which the next token is asked for.

    Attributes:
        row: among all positions of all texts.
        text: its number.
        length: tokens of the prompt.
    """

    row: int
    text: int
    length: int


def places_of(texts: Sequence[Sequence[int]]) -> list[Place]:
    """The positions that are compared: every sixth and the last of each text."""
    found, row = [], 0
    for number, ids in enumerate(texts):
        found += [
            Place(row + at, number, at + 1)
            for at in range(len(ids))
            if at % _EVERY == _EVERY - 1 or at == len(ids) - 1
        ]
        row += len(ids)
    return found


def next_tokens(
    server: Server, texts: Sequence[Sequence[int]], *, lora_scale: float | None = None
) -> list[dict[int, float]]:
    """Log-probabilities of the likeliest next tokens at each of `places_of(texts)`.

    Args:
        texts: token ids.
        lora_scale: of the adapter that the server has loaded.

    Raises:
        ToolError: the server failed.
    """
    # half a character or an end of text would be answered without probabilities; these are
    # taken before the bias
    letter = server.post("/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
    found = []
    before = -1
    for place in places_of(texts):
        body: dict[str, Any] = {
            "prompt": list(texts[place.text][: place.length]),
            "n_predict": 1,
            "n_probs": _TOP,
            "temperature": 0.0,
            "logit_bias": [[letter, 1000.0]],
            # the server keeps what it computed with another scale, too
            "cache_prompt": place.text == before,
        }
        if lora_scale is not None:
            body["lora"] = [{"id": 0, "scale": lora_scale}]
        before = place.text
        answer = server.post("/completion", body)["completion_probabilities"][0]
        found.append({one["id"]: float(one["logprob"]) for one in answer["top_logprobs"]})
    return found


def same_tokens(logits: Tensor, found: Sequence[dict[int, float]]) -> list[dict[int, float]]:
    """Log-probabilities of a model in `transformers` for the tokens that the server named."""
    logs = logits.double().log_softmax(-1)
    return [
        dict(zip(likely, row[list(likely)].tolist(), strict=True))
        for row, likely in zip(logs, found, strict=True)
    ]


def largest_difference(wanted: Tensor, found: Sequence[dict[int, float]]) -> float:
    """Of log-probabilities, in nats, over the tokens that the server named."""
    import torch

    largest = 0.0
    for logits, likely in zip(wanted, found, strict=True):
        logs = logits.double().log_softmax(-1)[list(likely)]
        largest = max(largest, float((logs - torch.tensor(list(likely.values()))).abs().max()))
    return largest


def divergence(wanted: Tensor, found: Sequence[dict[int, float]]) -> float:
    """Mean KL divergence in nats of the server's distributions from logits [places, vocabulary].

    All tokens that the server did not name count as one: a lower bound.
    """
    import torch

    total = 0.0
    for logits, likely in zip(wanted, found, strict=True):
        ids = torch.tensor(list(likely))
        logs = logits.double().log_softmax(-1)[ids]
        other = torch.tensor(list(likely.values()), dtype=torch.float64).clamp(min=-100)
        left, right = (1 - one.exp().sum().clamp(max=1) for one in (logs, other))
        total += float((logs.exp() * (logs - other)).sum())
        total += float(left * ((left + 1e-12).log() - (right + 1e-12).log()))
    return total / len(found)
