"""Training the model's own weights: all of them (full), or some layers (freeze).

Trained weights are fp32, because a step is often smaller than a bf16 weight's last bit. Where the
recipe's number format is bf16, products are computed in it under autocast.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import tr
from slipway.training.methods.base import ParamGroup, Tuned, copy_into
from slipway.training.methods.save_model import save_model
from slipway.training.sharding import Sharding
from slipway.training.sharding.split import is_part, split_layers, whole
from slipway.training.spec import FreezeSpec


class WholeTuned(Tuned):
    """A model of which weights themselves are trained.

    Args:
        names: of the trained parameters.
        dtype: products are computed in it.
    """

    artefact = "model"

    def __init__(self, model: Any, names: Iterable[str], targets: list[str], dtype: Any) -> None:
        super().__init__(model, targets)
        model.requires_grad_(False)
        every = dict(model.named_parameters())
        self.trained: dict[str, nn.Parameter] = {name: every[name] for name in names}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        self._dtype = dtype
        self._gathered: dict[str, Tensor] | None = None

    def split(self, sharding: Sharding, device: torch.device) -> None:
        """Let each process keep a part of the layers' weights; the model goes to `device`."""
        split_layers(self.model, sharding, device)
        every = dict(self.model.named_parameters())
        self.trained = {name: every[name] for name in self.trained}
        self.is_split = True

    def groups(self) -> list[ParamGroup]:
        """Matrices, and then norms and biases, for which weight decay does not hold.

        Weights in parts and whole ones are groups of their own: one kernel cannot step both.
        """
        groups = []
        for part in (True, False):
            some = [p for p in self.trained.values() if is_part(p) is part]
            groups.append(ParamGroup([p for p in some if p.ndim > 1]))
            groups.append(ParamGroup([p for p in some if p.ndim <= 1], decayed=False))
        return [group for group in groups if group.parameters]

    def state(self) -> dict[str, Tensor]:
        """The trained weights by their names in the model."""
        return {name: whole(parameter) for name, parameter in self.trained.items()}

    def gather(self, keep: bool) -> None:
        """See `Tuned`."""
        if not self.is_split:
            return
        found = {}
        for name, tensor in self.model.state_dict().items():
            full = whole(tensor)
            if keep:
                found[name] = full
        self._gathered = found

    def load_state(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Put the trained weights back."""
        copy_into(self.trained, tensors, where)

    def save(self, folder: Path, base: Path) -> list[str]:
        """Write a Hugging Face folder: the base's with other weights."""
        return save_model(self.model, base, folder, self._gathered)

    def reference(self) -> AbstractContextManager[None] | None:
        """None: the weights from before are gone."""
        return None

    def computing(self) -> AbstractContextManager[Any]:
        """Autocast, where products are computed in less than fp32."""
        if self._dtype == torch.float32:
            return nullcontext()
        kind = next(self.model.parameters()).device.type
        lower: AbstractContextManager[Any] = torch.autocast(kind, dtype=self._dtype)
        return lower


def full(model: Any, dtype: Any) -> WholeTuned:
    """Every weight is trained."""
    return WholeTuned(model, [name for name, _ in model.named_parameters()], ["all"], dtype)


def freeze(model: Any, spec: FreezeSpec, dtype: Any) -> WholeTuned:
    """The last (or first) layers are trained, or some modules of them, and modules outside.

    Raises:
        UsageError: the model has fewer layers, or no module of that name.
    """
    prefix, layers = _layers(model)
    count = len(layers)
    if not spec.layers or abs(spec.layers) > count:
        raise UsageError(
            "train.no_such_layers",
            tr(
                "`freeze.layers`: {layers} of a model with {count}", layers=spec.layers, count=count
            ),
            tr("give 1 to {count}, or -1 to -{count} for the first ones", count=count),
        )
    chosen = range(count - spec.layers, count) if spec.layers > 0 else range(-spec.layers)
    inside = {name.split(".")[0] for name, _ in layers[0].named_parameters()}
    wanted = sorted(inside) if spec.modules == "all" else list(spec.modules)
    _require(wanted, inside, "freeze.modules")
    names = [
        name
        for name, _ in model.named_parameters()
        if any(name.startswith(f"{prefix}.{at}.{kind}.") for at in chosen for kind in wanted)
    ]
    outside = {
        part
        for name, _ in model.named_modules()
        if name and not name.startswith(f"{prefix}.") and (part := name.rpartition(".")[2])
    }
    _require(spec.extra_modules, outside, "freeze.extra_modules")
    for extra in spec.extra_modules:
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == extra and not name.startswith(f"{prefix}."):
                names += [n for n in _own_names(model, module) if n not in names]
    return WholeTuned(model, names, [*wanted, *spec.extra_modules], dtype)


def _own_names(model: Any, module: nn.Module) -> list[str]:
    """Names in the model of a module's parameters; a tied one has the name of its first place."""
    mine = {id(parameter) for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in mine]


def _layers(model: Any) -> tuple[str, nn.ModuleList]:
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is getattr(decoder, "layers", None):
            return name, module
    raise UsageError(
        "train.no_layers",
        tr("this model family does not name its layers, so that none can be frozen"),
        tr("use `method=lora` or `method=full`"),
    )


def _require(wanted: Iterable[str], there: set[str], key: str) -> None:
    for name in wanted:
        if name not in there:
            raise UsageError(
                "train.no_such_module",
                tr("`{key}`: the model has no module `{name}` there", key=key, name=name),
                tr(
                    "did you mean {names}?",
                    names=", ".join(nearest(name, there) or sorted(there)),
                ),
            )
