"""Recipes: their keys, and how a file and overrides become one."""

from slipway.core.manifest import flatten
from slipway.training.spec.keys import (
    FreezeSpec,
    KtoSpec,
    LoraSpec,
    OftSpec,
    PreferenceSpec,
    QuantSpec,
    RlSpec,
    TrainSpec,
)
from slipway.training.spec.load import Resolved, load_recipe
from slipway.training.spec.validate import known_keys

__all__ = [
    "FreezeSpec",
    "KtoSpec",
    "LoraSpec",
    "OftSpec",
    "PreferenceSpec",
    "QuantSpec",
    "Resolved",
    "RlSpec",
    "TrainSpec",
    "flatten",
    "known_keys",
    "load_recipe",
]
