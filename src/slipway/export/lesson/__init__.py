"""How quantising works, in numpy, on a tensor of the user's own model. Read `schemes` first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway.export.lesson.draw import draw_lesson
    from slipway.export.lesson.steps import Lesson, Row, walk
    from slipway.export.lesson.weights import Weight, take_weight

__all__ = ["Lesson", "Row", "Weight", "draw_lesson", "take_weight", "walk"]

_HOMES = {
    "Lesson": "steps",
    "Row": "steps",
    "Weight": "weights",
    "draw_lesson": "draw",
    "take_weight": "weights",
    "walk": "steps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"slipway.export.lesson.{_HOMES[name]}"), name)
