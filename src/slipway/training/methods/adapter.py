"""LoRA as a method of training: see `slipway.training.lora` for the layers and the file format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from slipway.training import lora
from slipway.training.methods.base import ParamGroup, Tuned
from slipway.training.spec import LoraSpec


class LoraTuned(Tuned):
    """A frozen base with low-rank additions."""

    artefact = "adapter"

    def __init__(self, model: Any, spec: LoraSpec) -> None:
        plain = spec.model_dump(include={"rank", "alpha", "dropout", "target"})
        super().__init__(model, lora.attach(model, **plain))
        self.spec = spec

    def groups(self) -> list[ParamGroup]:
        """A and B of every layer."""
        return [ParamGroup([p for p in self.model.parameters() if p.requires_grad])]

    def state(self) -> dict[str, Tensor]:
        """A and B under PEFT's names."""
        return lora.state(self.model)

    def load_state(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Put A and B back."""
        lora.load_state(self.model, tensors, where)

    def save(self, folder: Path, base: Path) -> list[str]:
        """Write a PEFT folder."""
        settings = {**self.spec.model_dump(), "target": self.targets}
        lora.save_adapter(self.model, folder, base=base.name, settings=settings)
        return [lora.CONFIG_FILE, lora.WEIGHTS_FILE]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The base alone."""
        with lora.switched_off(self.model):
            yield
