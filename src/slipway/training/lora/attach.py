"""Adapters on a model: put on, taken off for a while, their tensors read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from slipway.core.errors import InputError, UsageError, nearest
from slipway.core.i18n import tr
from slipway.training.lora.extra import add_extras, extras, modules_named
from slipway.training.lora.layer import AdapterLayer, LoraLinear, LoraShape

PREFIX = "base_model.model."


def linear_names(model: nn.Module) -> list[str]:
    """Names of the linear layers inside the decoder, without the output head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]


def attach(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    target: str | Sequence[str],
    rslora: bool = False,
    dora: bool = False,
    extra_modules: Sequence[str] = (),
    singular: int | None = None,
) -> list[str]:
    """Freeze the model and put an adapter on each targeted linear layer; return their last names.

    Args:
        target: "all", or last parts of layer names such as `q_proj`.
        extra_modules: names of modules that are trained whole instead.
        singular: PiSSA with so many iterations of its decomposition; -1 for the exact one.

    Raises:
        UsageError: a target or a module matches none of the model's.
    """
    shape = LoraShape(rank, alpha, dropout, rslora, dora)

    def layer(base: nn.Linear) -> AdapterLayer:
        made = LoraLinear(base, shape)
        if singular is not None:
            made.begin_from_singular(singular)
        return made

    return attach_layers(model, layer, target, "lora.target", extra_modules)


def attach_layers(
    model: nn.Module,
    layer: Callable[[nn.Linear], AdapterLayer],
    target: str | Sequence[str],
    key: str,
    extra_modules: Sequence[str] = (),
) -> list[str]:
    """As `attach`, with any kind of layer.

    Args:
        key: of the recipe that named the targets.
    """
    model.requires_grad_(False)
    names = linear_names(model)
    kinds = sorted({name.rpartition(".")[2] for name in names})
    wanted = kinds if target == "all" else [target] if isinstance(target, str) else list(target)
    for kind in wanted:
        if kind not in kinds:
            raise UsageError(
                "train.no_such_target",
                tr("`{key}`: the model has no linear layer `{name}`", key=key, name=kind),
                tr("did you mean {names}?", names=", ".join(nearest(kind, kinds) or kinds)),
            )
    whole = modules_named(model, extra_modules, "lora.extra_modules")
    add_extras(model, whole)
    for name in names:
        last = name.rpartition(".")[2]
        if last in wanted and not any(f"{name}.".startswith(f"{one}.") for one in whole):
            put_layer(model, name, layer(model.get_submodule(name)))
    return [*wanted, *(kind for kind in extra_modules if kind not in wanted)]


def put_layer(model: nn.Module, name: str, layer: AdapterLayer) -> None:
    """Put an adapted layer into the place of its base."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


def adapters(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapted layer with its name in the base model."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield name, module


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """While entered, the model computes as if no adapter were attached. Without gradient."""
    layers = [layer for _, layer in adapters(model)]
    for layer in layers:
        layer.off = True
    for extra in extras(model):
        extra.switch(on=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.off = False
        for extra in extras(model):
            extra.switch(on=True)


def live(model: nn.Module) -> dict[str, Tensor]:
    """All that is trained and what it began from, by name; the tensors are the model's own."""
    tensors = {
        f"{PREFIX}{name}.{end}": tensor
        for name, layer in adapters(model)
        for end, tensor in layer.tensors().items()
    }
    return tensors | {f"{PREFIX}{extra.names[0]}": extra.trained for extra in extras(model)}


def state(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors under PEFT's names, fp32, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in live(model).items()}


def load_state(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy tensors under PEFT's names into the attached adapters.

    Raises:
        InputError: a tensor is missing, left over, or has another shape than the model's.
    """
    mine = live(model)
    for name in sorted({*mine, *tensors}):
        here, there = mine.get(name), tensors.get(name)
        if here is None or there is None or here.shape != there.shape:
            raise mismatch(where, name)
        with torch.no_grad():
            here.copy_(there)


def mismatch(where: Path, key: str) -> InputError:
    """A tensor does not belong to this model."""
    return InputError(
        "adapter.mismatch",
        tr("the adapter in {path} does not fit this base: `{tensor}`", path=where, tensor=key),
        tr("use the base that the adapter was trained on"),
    )
