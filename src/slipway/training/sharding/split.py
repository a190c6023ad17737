"""A split model: layers whose weights lie in parts on all processes, and how to see them whole.

torch's `fully_shard` (FSDP2; Zhao et al. 2023, arXiv 2304.11277) gathers a layer's weights when the
layer is computed and adds up its gradients in parts. Embedding, last norm and output head stay
whole on each process: the loss reads the head's weight directly, in chunks.

Every process must compute the same number of packs, because each pack gathers weights from all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from slipway.training.sharding.config import Sharding


def split_layers(model: Any, sharding: Sharding, device: torch.device) -> None:
    """Split the weights of the decoder's layers over all processes of the group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    offload = CPUOffloadPolicy() if sharding.offload and device.type == "cuda" else OffloadPolicy()
    decoder = model.get_decoder()
    options = {
        "mesh": mesh,
        "reshard_after_forward": sharding.reshard,
        "offload_policy": offload,
    }
    for layer in decoder.layers:
        fully_shard(layer, **options)
        layer.set_force_sum_reduction_for_comms(True)
        layer.set_gradient_divide_factor(1.0)  # the objective has divided by the whole step's count
    rest = {p for p in decoder.parameters() if not isinstance(p, DTensor)}
    fully_shard(decoder, **options, ignored_params=rest)
    for parameter in rest | {p for p in model.parameters() if not isinstance(p, DTensor)}:
        parameter.data = parameter.data.to(device)


def is_part(tensor: object) -> bool:
    """Whether a tensor lies in parts on several processes."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on the CPU; all processes must ask together."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full.detach().cpu()
    return tensor.detach().cpu()


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor as `model` is: split in the same way, or whole."""
    if not isinstance(model, DTensor):
        return tensor
    placed = tensor.to(model.device, model.dtype)
    return distribute_tensor(placed, model.device_mesh, model.placements)


def clip_(parameters: Sequence[Any], most: float) -> float:
    """Scale all gradients so that their common norm is at most `most`; return the norm before.

    The same as torch's `clip_grad_norm_`, for gradients of which some lie in parts.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = []
    for part in (True, False):
        some = [grad for grad in grads if is_part(grad) is part]
        if some:
            norm = torch.nn.utils.get_total_norm(some)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = float(torch.linalg.vector_norm(torch.stack([norm.cpu() for norm in norms])))
    factor = most / (total + 1e-6)
    if factor < 1.0:
        for grad in grads:
            grad.mul_(factor)
    return total


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """An optimiser's state with whole tensors; all processes must ask together."""
    state = optimizer.state_dict()
    if "each" in state:
        return {"each": [optimizer_state(one) for one in optimizer.each]}
    found = {
        number: {
            name: whole(value) if isinstance(value, DTensor) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": found}


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Put back what `optimizer_state` gave."""
    if "each" in state:
        for one, own in zip(optimizer.each, state["each"], strict=True):
            load_optimizer_state(one, own)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    placed = {
        number: {
            name: like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": placed})
