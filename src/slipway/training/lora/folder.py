"""Adapter folders in PEFT's format, written and read.

The format is https://huggingface.co/docs/peft's: `adapter_config.json` and
`adapter_model.safetensors`; PEFT, llama.cpp's converter and others can load it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slipway.core.errors import InputError
from slipway.core.files import write_bytes, write_json
from slipway.core.i18n import tr
from slipway.training.lora.attach import PREFIX, adapters, linear_names, mismatch, put_layer
from slipway.training.lora.extra import extras, put_extras
from slipway.training.lora.layer import AdapterLayer, LoraLinear, LoraShape
from slipway.training.lora.oft import OftLinear, OftShape

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_ENDS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "oft_R.weight")
_OFT_FORMAT = "0.18.0"  # of PEFT: OFT folders of earlier versions mean something else


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder's content.

    Attributes:
        layers: name in the base -> its tensors by the end of their names.
        whole: parameters of modules trained whole, by their names in the base.
    """

    folder: Path
    config: dict[str, Any]
    layers: dict[str, dict[str, Tensor]]
    whole: dict[str, Tensor] = field(default_factory=dict)

    def on(self, base: nn.Linear, name: str, dropout: float = 0.0) -> AdapterLayer:
        """A base layer with this adapter's tensors beside it.

        Raises:
            InputError: they do not fit it.
        """
        if self.config["peft_type"] == "OFT":
            layer: AdapterLayer = OftLinear(base, _oft_shape(self.config, dropout))
        else:
            layer = LoraLinear(base, self.shape(name, dropout))
        return _filled(layer, self.layers[name], name, self.folder)

    def shape(self, name: str, dropout: float = 0.0) -> LoraShape:
        """Rank and scale of one layer of a LoRA; patterns of the config are obeyed."""
        return _shape(self.config, name, dropout)


def _filled(
    layer: AdapterLayer, tensors: dict[str, Tensor], name: str, folder: Path
) -> AdapterLayer:
    mine = layer.tensors()
    for end in sorted({*mine, *tensors}):
        there = tensors.get(end)
        if end not in mine or there is None or there.shape != mine[end].shape:
            raise mismatch(folder, f"{PREFIX}{name}.{end}")
        mine[end].data.copy_(there)
    return layer


def save_adapter(model: nn.Module, folder: Path, *, base: str) -> None:
    """Write the adapter as a PEFT folder.

    Args:
        base: what PEFT shall record as the base model's name or path.
    """
    from safetensors.torch import save

    tensors = {
        f"{PREFIX}{name}.{end}": tensor.detach().cpu().contiguous()
        for name, layer in adapters(model)
        for end, tensor in layer.saved().items()
    }
    for extra in extras(model):
        copy = extra.trained.detach().cpu()
        # a name of its own for each place, because not every reader ties what the base ties
        tensors |= {f"{PREFIX}{name}": copy.clone() for name in extra.names}
    # through memory, so that a full disk is an OSError
    write_bytes(folder / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
    write_json(folder / CONFIG_FILE, {**_own_config(model), **_common_config(model, base)})


def _common_config(model: nn.Module, base: str) -> dict[str, Any]:
    whole = sorted({n.rpartition(".")[0] for extra in extras(model) for n in extra.names})
    return {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": _named({name for name, _ in adapters(model)}, linear_names(model)),
        "modules_to_save": _short(whole, model) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _own_config(model: nn.Module) -> dict[str, Any]:
    first = next(adapters(model))[1]
    if not isinstance(first, OftLinear):
        return _lora_config(model)
    return {
        "peft_type": "OFT",
        "peft_version": _OFT_FORMAT,
        "r": first.shape.blocks,
        "oft_block_size": first.shape.block,
        "module_dropout": first.shape.dropout,
        "init_weights": True,
        "coft": False,
        "block_share": False,
        "use_cayley_neumann": bool(first.shape.terms),
        "num_cayley_neumann_terms": first.shape.terms or 5,
    }


def _lora_config(model: nn.Module) -> dict[str, Any]:
    shapes = {
        name: layer.saved_shape()
        for name, layer in adapters(model)
        if isinstance(layer, LoraLinear)
    }
    usual = Counter(shapes.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": usual.rank,
        "lora_alpha": usual.alpha,
        "lora_dropout": usual.dropout,
        "init_lora_weights": True,
        "use_rslora": usual.rslora,
        "use_dora": usual.dora,
        "rank_pattern": {n: s.rank for n, s in shapes.items() if s.rank != usual.rank},
        "alpha_pattern": {n: s.alpha for n, s in shapes.items() if s.alpha != usual.alpha},
    }


def _named(adapted: set[str], linear: Iterable[str]) -> list[str]:
    """Last names where all layers called so are adapted, else full names."""
    bases = {name.removesuffix(".base") for name in linear}
    plain = {name.rpartition(".")[2] for name in bases - adapted}
    lasts = {name: name.rpartition(".")[2] for name in adapted}
    return sorted({name if last in plain else last for name, last in lasts.items()})


def _short(modules: Iterable[str], model: nn.Module) -> list[str]:
    """Last names where no other module's name ends like them: PEFT compares letters, not parts."""
    every = [name for name, _ in model.named_modules()]
    found = []
    for name in modules:
        last = name.rpartition(".")[2]
        found.append(last if sum(one.endswith(last) for one in every) == 1 else name)
    return sorted(found)


def read_adapter(folder: Path) -> Adapter:
    """The config and tensors of a PEFT folder.

    Raises:
        InputError: the folder is incomplete, or holds what Slipway does not apply.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    _require_known(config, folder)
    layers: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        end = next((e for e in _ENDS if name.endswith(f".{e}")), None)
        if end is not None:
            layers.setdefault(name.removesuffix(f".{end}"), {})[end] = tensor
        elif ".lora_" in name or ".oft_" in name:
            raise _unsupported(folder, [name])
        else:
            whole[name] = tensor
    return Adapter(folder, config, layers, whole)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a PEFT folder.

    Raises:
        InputError: there is none that can be read.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return config


def _unreadable(folder: Path, error: Exception) -> InputError:
    return InputError(
        "adapter.unreadable",
        tr("cannot read the adapter in {path}: {reason}", path=str(folder), reason=error),
    )


def load_adapter(model: nn.Module, folder: Path, *, dropout: float | None = None) -> list[str]:
    """Attach the adapter of a PEFT folder to a plain base model; return its layers' last names.

    Args:
        dropout: the adapter is trained on, with this dropout; None: it is only used.

    Raises:
        InputError: see `read_adapter`; or it does not fit the model.
    """
    adapter = read_adapter(folder)
    model.requires_grad_(False)
    modules = dict(model.named_modules())
    for name in adapter.layers:
        base = modules.get(name)
        if not isinstance(base, nn.Linear):
            raise mismatch(folder, name)
        put_layer(model, name, adapter.on(base, name, dropout or 0.0))
    misfits = put_extras(model, adapter.whole, train=dropout is not None)
    if misfits:
        raise mismatch(folder, misfits[0])
    kinds = {name.rpartition(".")[2] for name in adapter.layers}
    return sorted(kinds | {name.split(".")[-2] for name in adapter.whole})


def _shape(config: dict[str, Any], name: str, dropout: float) -> LoraShape:
    rank = _by_pattern(config.get("rank_pattern"), name, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
    flags = bool(config.get("use_rslora")), bool(config.get("use_dora"))
    return LoraShape(int(rank), float(alpha), dropout, *flags)


def _oft_shape(config: dict[str, Any], dropout: float) -> OftShape:
    terms = int(config.get("num_cayley_neumann_terms", 5))
    fast = config.get("use_cayley_neumann", True)
    block, blocks = int(config.get("oft_block_size", 32)), int(config.get("r", 0))
    return OftShape(0 if blocks else block, blocks, dropout, terms if fast else 0)


def _by_pattern(patterns: dict[str, Any] | None, name: str, usual: Any) -> Any:
    """PEFT's rule: the first pattern that is the end of the layer's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return usual


# keys of PEFT's config that change what is computed -> whether a value changes nothing
_MUST_BE: dict[str, Callable[[Any], bool]] = {
    "bias": lambda value: value == "none",
    # these change the base too, by a decomposition that only PEFT repeats
    "init_lora_weights": lambda value: (
        not isinstance(value, str)
        or not value.startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))
    ),
    **dict.fromkeys(
        [
            "lora_bias",
            "fan_in_fan_out",
            "trainable_token_indices",
            "layer_replication",
            "target_parameters",
            "alora_invocation_tokens",
            "use_qalora",
            "use_bdlora",
            "kasa_config",
            "monteclora_config",
            "coft",
            "block_share",
            "arrow_config",
        ],
        lambda value: not value,
    ),
}


def _require_known(config: dict[str, Any], folder: Path) -> None:
    if config.get("peft_type") not in ("LORA", "OFT"):
        raise _unsupported(folder, [str(config.get("peft_type"))])
    found = [
        key for key, harmless in _MUST_BE.items() if key in config and not harmless(config[key])
    ]
    if found:
        raise _unsupported(folder, found)


def _unsupported(folder: Path, names: list[str]) -> InputError:
    return InputError(
        "adapter.unsupported",
        tr(
            "the adapter in {path} uses what is not applied here: {names}",
            path=folder,
            names=", ".join(names),
        ),
        tr("merge it with PEFT, and use the merged model"),
    )
