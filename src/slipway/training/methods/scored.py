"""A model with a head that gives a document one number: what stage rm trains.

The head is kept as `value_head.safetensors` beside the adapter or in the model folder, under the
names that TRL and LLaMA Factory give it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slipway.core.files import write_bytes
from slipway.training.methods.base import ParamGroup, Tuned, copy_into

HEAD_FILE = "value_head.safetensors"
WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"


class ScoredTuned(Tuned):
    """A method with a trained head on top: score = weight . hidden state of the last token.

    A bias would be the same for both answers of a pair, so none is learned; the file has a zero.

    Attributes:
        weight: [1, width], fp32. It begins small and random, by torch's seed.
    """

    def __init__(self, inner: Tuned) -> None:
        super().__init__(inner.model, [*inner.targets, "value_head"])
        self.inner, self.artefact = inner, inner.artefact
        embeddings = inner.model.get_output_embeddings().weight
        width = int(embeddings.shape[1])
        start = torch.randn(1, width) * (width + 1) ** -0.5
        self.weight = nn.Parameter(start.to(embeddings.device))

    def groups(self) -> list[ParamGroup]:
        """The method's, and the head."""
        return [*self.inner.groups(), ParamGroup([self.weight])]

    def state(self) -> dict[str, Tensor]:
        """The method's, and the head."""
        return {**self.inner.state(), WEIGHT: self.weight.detach().cpu()}

    def load_state(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Put back what `state` gave."""
        copy_into(
            {WEIGHT: self.weight},
            {name: tensor for name, tensor in tensors.items() if name == WEIGHT},
            where,
        )
        rest = {name: tensor for name, tensor in tensors.items() if name != WEIGHT}
        self.inner.load_state(rest, where)

    def save(self, folder: Path, base: Path) -> list[str]:
        """Write the method's artefact and the head."""
        from safetensors.torch import save

        names = self.inner.save(folder, base)
        head = {WEIGHT: self.weight.detach().cpu().contiguous(), BIAS: torch.zeros(1)}
        write_bytes(folder / HEAD_FILE, save(head, {"format": "pt"}))
        return [*names, HEAD_FILE]

    def reference(self) -> AbstractContextManager[None] | None:
        """As the method's."""
        return self.inner.reference()

    def computing(self) -> AbstractContextManager[Any]:
        """As the method's."""
        return self.inner.computing()
