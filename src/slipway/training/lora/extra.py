"""Modules trained whole beside an adapter: a copy in fp32 stands in the place of the frozen one.

A parameter that several modules share (an embedding tied to the output head) stays shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import tr


class Extra:
    """One parameter trained whole.

    Attributes:
        names: in the model, one for each place.
        frozen, trained: the base's parameter, and the one that is trained in its place.
    """

    def __init__(self, model: nn.Module, names: list[str], trained: nn.Parameter) -> None:
        self.names, self.trained = names, trained
        owners = [name.rpartition(".") for name in names]
        self._places = [(model.get_submodule(path), last) for path, _, last in owners]
        self.frozen: nn.Parameter = getattr(*self._places[0])
        self.switch(on=True)

    @property
    def owners(self) -> list[nn.Module]:
        """The modules that hold it."""
        return [module for module, _ in self._places]

    def switch(self, *, on: bool) -> None:
        """Put the trained parameter into its places, or the frozen one."""
        for module, last in self._places:
            setattr(module, last, self.trained if on else self.frozen)


def extras(model: nn.Module) -> list[Extra]:
    """The parameters of a model that are trained whole."""
    found: list[Extra] = getattr(model, "slipway_extras", [])
    return found


def modules_named(model: nn.Module, wanted: Sequence[str], key: str) -> list[str]:
    """Full names of the modules that are called so, or whose names end so.

    Raises:
        UsageError: there is none.
    """
    every = [
        name
        for name, module in model.named_modules()
        if name and next(module.parameters(), None) is not None
    ]
    found = []
    for kind in wanted:
        mine = [name for name in every if name == kind or name.endswith(f".{kind}")]
        if not mine:
            known = {name.rpartition(".")[2] for name in every}
            raise UsageError(
                "train.no_such_module",
                tr("`{key}`: the model has no module `{name}` there", key=key, name=kind),
                tr(
                    "did you mean {names}?",
                    names=", ".join(nearest(kind, known) or sorted(known - set("0123456789"))),
                ),
            )
        found += [name for name in mine if name not in found]
    return found


def add_extras(model: nn.Module, modules: Iterable[str]) -> None:
    """Let every parameter of these modules be trained in fp32, shared ones once."""
    wanted = {id(p) for name in modules for p in model.get_submodule(name).parameters()}
    for names, parameter in shared(model):
        if id(parameter) in wanted:
            if not parameter.is_floating_point():
                raise UsageError(
                    "train.quantised_module",
                    tr("`{name}` is quantised, so that it cannot be trained whole", name=names[0]),
                    tr("take it out of `lora.extra_modules`, or train without `quant.bits`"),
                )
            copy = nn.Parameter(parameter.detach().to(torch.float32, copy=True))
            _add(model, Extra(model, names, copy))


def put_extras(model: nn.Module, tensors: dict[str, Tensor], *, train: bool) -> list[str]:
    """Put an adapter's whole parameters into the model; return the names that do not fit.

    A tied parameter of which the adapter has one half, or two unequal ones, is untied.

    Args:
        tensors: by their names in the model.
        train: they are trained on, in fp32; else they are held as the base's are.
    """
    left = dict(tensors)
    for names, parameter in shared(model):
        mine = [name for name in names if name in left]
        alike = len(mine) == len(names) and all(left[n].equal(left[mine[0]]) for n in mine)
        for group in [mine] if alike else [[name] for name in mine]:
            tensor = [left.pop(name) for name in group][-1]
            if tensor.shape != parameter.shape:
                return group
            dtype = torch.float32 if train else parameter.dtype
            copy = tensor.to(parameter.device, dtype, copy=True)
            _add(model, Extra(model, group, nn.Parameter(copy, requires_grad=train)))
    return sorted(left)


def shared(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Every parameter with all its names."""
    found: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return list(found.values())


def _add(model: nn.Module, extra: Extra) -> None:
    model.slipway_extras = [*extras(model), extra]
    if extra.trained.dtype != extra.frozen.dtype:
        for module in extra.owners:
            _bridge(module, extra.trained.dtype, extra.frozen.dtype)


def _bridge(module: nn.Module, inside: torch.dtype, outside: torch.dtype) -> None:
    """Let a module with parameters in another number format stand among the base's."""

    def into(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        dtype = next(module.parameters(recurse=False)).dtype  # the frozen one's when switched off
        return tuple(a.to(dtype) if _is_floating(a) else a for a in args)

    def out(_: Any, args: Any, result: Any) -> Any:
        return result.to(outside) if _is_floating(result) else result

    if not getattr(module, "slipway_bridged", False):
        module.slipway_bridged = True
        module.register_forward_pre_hook(into)
        module.register_forward_hook(out)


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
