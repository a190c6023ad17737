"""A model's own code with a few of its layers and made-up weights: what a layer costs, measured.

Nothing of the base's weights is read, so a model larger than the memory can be looked at.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from slipway.core.errors import InputError
from slipway.core.i18n import tr
from slipway.training import attention
from slipway.training.recompute import lighten

_UNTOUCHED = 64 << 20  # bytes


def read_config(base: Path) -> Any:
    """The base's config as transformers has it.

    Raises:
        InputError: there is none, or none that transformers knows.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for one cause: a bad folder
        raise InputError(
            "model.unreadable",
            tr(
                "the model in {path} cannot be loaded: {reason}",
                path=str(base),
                reason=(str(error).strip().splitlines() or [type(error).__name__])[0],
            ),
            tr("fetch the model again with `slipway pull`"),
        ) from error


def with_layers(config: Any, layers: int) -> Any:
    """A copy of a config with the first so many layers."""
    short = copy.deepcopy(config)
    short.num_hidden_layers = layers
    if getattr(short, "layer_types", None):
        short.layer_types = short.layer_types[:layers]
    if hasattr(short, "max_window_layers"):
        short.max_window_layers = min(short.max_window_layers, layers)
    return short


def build(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A frozen model of a config; on the meta device it has sizes and no numbers.

    Elsewhere its matrices hold small random numbers and its norms ones: zeros would make the
    processor's work easier than it is.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    attention.register()
    with no_init_weights(), torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention.NAME, trust_remote_code=False
        )
    model.tie_weights()
    model.requires_grad_(False)
    if device.type != "meta":
        _fill(model)
        lighten(model)
    return model.eval()


def _fill(model: Any) -> None:
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1.0)
        elif parameter is embedding or parameter is head:
            # zeros cost the same time here; a larger tensor has fresh pages from the system,
            # which are zero and occupy no memory until they are written to
            if parameter.nbytes < _UNTOUCHED:
                parameter.data.zero_()
        else:
            parameter.data.uniform_(-0.03, 0.03)
    embedding.data[:2048].uniform_(-1.0, 1.0)


def numbers(model: Any) -> tuple[int, int]:
    """Weights, and trained weights, of a model."""
    found = list(model.parameters())
    # a packed weight says how many numbers it stands for
    every = sum(getattr(p, "slipway_numbers", p.numel()) for p in found)
    return every, sum(p.numel() for p in found if p.requires_grad)


def weight_bytes(model: Any) -> int:
    """Bytes of all weights and buffers, shared ones once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    return sum(t.numel() * t.element_size() for t in tensors)
