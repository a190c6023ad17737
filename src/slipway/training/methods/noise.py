"""NEFTune: noise on the input embeddings while training.

Jain et al. 2023, "NEFTune" (arXiv 2310.05914): uniform noise in [-1, 1], times
alpha / sqrt(length * width). The length is that of each document, so that a pack of several gets
the noise that each would get alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def add_noise(model: Any, alpha: float) -> None:
    """From now on the decoder adds noise to its inputs whenever it trains and keeps gradients."""
    decoder, embedding = model.get_decoder(), model.get_input_embeddings()

    def before(module: Any, args: Any, given: dict[str, Any]) -> Any:
        ids = given.get("input_ids")
        if ids is None or not (module.training and torch.is_grad_enabled()):
            return None
        embedded = embedding(ids)
        lengths = document_lengths(given["position_ids"])
        size = alpha / (lengths * embedded.shape[-1]).sqrt()
        noise = torch.empty_like(embedded).uniform_(-1.0, 1.0) * size[..., None].to(embedded.dtype)
        return args, {**given, "input_ids": None, "inputs_embeds": embedded + noise}

    decoder.register_forward_pre_hook(before, with_kwargs=True)


def document_lengths(positions: Tensor) -> Tensor:
    """The length of the document that each token is in, from positions [1, tokens] of a pack."""
    number = (positions[0] == 0).long().cumsum(0)
    return torch.bincount(number)[number][None].float()
