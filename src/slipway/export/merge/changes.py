"""What an adapter makes of each weight of the base: the sum of its additions, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from slipway.core.errors import InputError, ProofError
from slipway.core.i18n import tr
from slipway.export.merge.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

    from slipway.training.lora import Adapter

Change = Callable[["Tensor"], "Tensor"]


def changes(sources: Sequence[Source], adapters: Sequence[Adapter]) -> dict[str, Change]:
    """Name of a weight in the base -> the function that makes the merged weight of it, fp32."""
    if len(sources) == 1 and sources[0].weight == 1.0:
        return _of_one(adapters[0])
    names = sorted({name for adapter in adapters for name in adapter.layers})
    pairs = list(zip(sources, adapters, strict=True))
    return {f"{name}.weight": _sum(name, pairs) for name in names}


def _of_one(adapter: Adapter) -> dict[str, Change]:
    found: dict[str, Change] = {f"{n}.weight": _layer(adapter, n) for n in adapter.layers}
    for name, tensor in adapter.whole.items():
        found[name] = _instead(tensor)
    return found


def _instead(tensor: Tensor) -> Change:
    return lambda weight: tensor.float()


def _layer(adapter: Adapter, name: str) -> Change:
    def merged(weight: Tensor) -> Tensor:
        # in fp32, because a bf16 layer packs its weight for the processor
        made: Tensor = adapter.on(linear(weight.float()), name).merged()
        return made

    return merged


def _sum(name: str, pairs: Sequence[tuple[Source, Adapter]]) -> Change:
    def merged(weight: Tensor) -> Tensor:
        base = linear(weight.float())
        total = base.weight.detach().clone()
        for source, adapter in pairs:
            if name in adapter.layers:
                total += source.weight * adapter.on(base, name).addition()
        return total

    return merged


def linear(weight: Tensor, bias: Tensor | None = None) -> Any:
    """A frozen linear layer with this weight."""
    import torch

    rows, columns = weight.shape
    layer = torch.nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer


def merged_weight(change: Change, weight: Tensor, name: str) -> Tensor:
    """The new weight in fp32.

    Raises:
        ProofError: the adapter does not fit, or gives numbers that are not finite.
    """
    import torch

    try:
        made = change(weight)
    except (InputError, ValueError) as error:  # ValueError: the weight is no matrix
        raise misfit(name) from error
    if made.shape != weight.shape:
        raise misfit(name)
    if not bool(torch.isfinite(made).all()):
        raise not_finite(name)
    return made


def misfit(name: str) -> ProofError:
    """The adapter is that of another base."""
    return ProofError(
        "merge.adapter_misfit",
        tr("the adapter does not fit the base: `{tensor}`", tensor=name),
        tr("merge with the base that the adapter was trained on"),
    )


def not_finite(name: str) -> ProofError:
    """A merged weight is infinite or no number."""
    return ProofError(
        "merge.not_finite",
        tr("`{tensor}` of the trained model is not finite", tensor=name),
        tr("train anew with a lower `learning_rate`"),
    )
