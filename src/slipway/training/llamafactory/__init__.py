"""LLaMA Factory's YAML and JSON files, read unchanged."""

from slipway.training.llamafactory.key import Key
from slipway.training.llamafactory.read import convert, is_llamafactory
from slipway.training.llamafactory.table import AREAS, KEYS

__all__ = ["AREAS", "KEYS", "Key", "convert", "is_llamafactory"]
