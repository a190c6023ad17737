"""What the training loop knows of a method: which weights it trains, and how they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from slipway.core.errors import InputError
from slipway.core.i18n import tr

Artefact = Literal["adapter", "model"]


@dataclass(frozen=True, slots=True)
class ParamGroup:
    """Trained weights that are stepped alike.

    Attributes:
        lr_ratio: their learning rate, as a multiple of the recipe's.
        decayed: whether weight decay holds for them; norms and biases are left out.
    """

    parameters: Sequence[nn.Parameter]
    lr_ratio: float = 1.0
    decayed: bool = True


class Tuned(ABC):
    """A model with a method attached.

    Attributes:
        model: the base, with whatever the method put into it.
        artefact: what a finished run holds: an `adapter` beside the base, or a whole `model`. It
            is also the name of its folder in the run folder.
        targets: what is trained, for people.
    """

    artefact: Artefact
    is_split = False  # its weights lie in parts on several processes, and all must ask together

    def __init__(self, model: Any, targets: list[str]) -> None:
        self.model, self.targets = model, targets

    @abstractmethod
    def groups(self) -> list[ParamGroup]:
        """The trained weights."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained weights of all groups."""
        return [parameter for group in self.groups() for parameter in group.parameters]

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The trained tensors by name, on the CPU; on a CPU they may share the model's memory."""

    @abstractmethod
    def load_state(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Put back what `state` gave.

        Raises:
            InputError: a tensor is missing, left over or misshapen; `where` is named.
        """

    @abstractmethod
    def save(self, folder: Path, base: Path) -> list[str]:
        """Write the artefact; return its files' names.

        Args:
            base: folder of the base model.

        Raises:
            ResourceError, OSError: the disk is full.
        """

    @abstractmethod
    def reference(self) -> AbstractContextManager[None] | None:
        """While entered, the model is as it was before training; None if it cannot be."""

    def gather(self, keep: bool) -> None:
        """Make whole what lies in parts, so that one process alone can `save` it.

        Args:
            keep: whether this process is the one that saves.
        """
        assert not self.is_split

    def computing(self) -> AbstractContextManager[Any]:
        """What a forward pass runs in: nothing, or a lower precision than the weights have."""
        return nullcontext()


def copy_into(parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor], where: Path) -> None:
    """Copy tensors into the parameters of the same names.

    Raises:
        InputError: a tensor is missing, left over or misshapen.
    """
    import torch

    for name in sorted({*parameters, *tensors}):
        parameter, tensor = parameters.get(name), tensors.get(name)
        if parameter is None or tensor is None or tensor.shape != parameter.shape:
            raise mismatch(where, name)
        from slipway.training.sharding.split import like

        with torch.no_grad():
            parameter.copy_(like(tensor, parameter))


def mismatch(where: Path, name: str) -> InputError:
    """A tensor does not belong to this model."""
    return InputError(
        "adapter.mismatch",
        tr("the adapter in {path} does not fit this base: `{tensor}`", path=where, tensor=name),
        tr("use the base that the adapter was trained on"),
    )
