"""LoRA and its variants: layers beside a frozen base, and folders in PEFT's format."""

from slipway.training.lora.attach import (
    adapters,
    attach,
    attach_layers,
    linear_names,
    load_state,
    state,
    switched_off,
)
from slipway.training.lora.extra import extras
from slipway.training.lora.folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    load_adapter,
    read_adapter,
    read_config,
    save_adapter,
)
from slipway.training.lora.layer import AdapterLayer, LoraLinear, LoraShape
from slipway.training.lora.oft import OftLinear, OftShape

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Adapter",
    "AdapterLayer",
    "LoraLinear",
    "LoraShape",
    "OftLinear",
    "OftShape",
    "adapters",
    "attach",
    "attach_layers",
    "extras",
    "linear_names",
    "load_adapter",
    "load_state",
    "read_adapter",
    "read_config",
    "save_adapter",
    "state",
    "switched_off",
]
