"""Optimisers that are more than one of torch's, with a state that goes into a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PROJECTOR = "projector"
_SETTINGS = ("rank", "update_proj_gap", "scale", "projection_type")


class Several:
    """Several optimisers that step together, each over weights of its own.

    Attributes:
        each: the optimisers.
    """

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.each = list(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for one in self.each for group in one.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for one in self.each:
            one.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One step of each."""
        for one in self.each:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        """The states in their order."""
        return {"each": [one.state_dict() for one in self.each]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for one, own in zip(self.each, state["each"], strict=True):
            one.load_state_dict(own)


class WithProjectors:
    """An optimiser whose state has GaLore's projectors; in a checkpoint they are plain values."""

    def __init__(self, optimizer: Any) -> None:
        self._one = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Its groups."""
        groups: list[dict[str, Any]] = self._one.param_groups
        return groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self._one.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """One step."""
        self._one.step()

    def state_dict(self) -> dict[str, Any]:
        """The state, with each projector as its settings, its matrix and the step it is of."""
        state = self._one.state_dict()
        return {**state, "state": {at: _plain(own) for at, own in state["state"].items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        made = {at: _whole(own) for at, own in state["state"].items()}
        self._one.load_state_dict({**state, "state": made})


def _plain(own: dict[str, Any]) -> dict[str, Any]:
    projector = own.get(_PROJECTOR)
    if projector is None:
        return own
    settings = {name: getattr(projector, name) for name in _SETTINGS}
    kept = {"settings": settings, "matrix": projector.ortho_matrix, "at": projector.last_svd_step}
    return {**own, _PROJECTOR: kept}


def _whole(own: dict[str, Any]) -> dict[str, Any]:
    kept = own.get(_PROJECTOR)
    if kept is None:
        return own
    from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

    projector = GaLoreProjector(**kept["settings"])
    device = own["exp_avg"].device
    projector.ortho_matrix, projector.last_svd_step = kept["matrix"].to(device), kept["at"]
    return {**own, _PROJECTOR: projector}
