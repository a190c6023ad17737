"""Every key that LLaMA Factory knows, by name."""

from __future__ import annotations

from slipway.training.llamafactory import (
    table_data,
    table_method,
    table_model,
    table_places,
    table_trainer,
)
from slipway.training.llamafactory.key import Key

AREAS: dict[str, tuple[Key, ...]] = {
    "model": table_model.KEYS,
    "data": table_data.KEYS,
    "method": table_method.KEYS,
    "trainer": table_trainer.KEYS,
    "places": table_places.KEYS,
}
KEYS: dict[str, Key] = {key.name: key for keys in AREAS.values() for key in keys}
