"""The picture of the lesson: which values a block can take, and what each format loses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slipway.core.errors import missing_extra
from slipway.export.lesson.schemes import BLOCK
from slipway.export.lesson.steps import Lesson

_BLUE, _RED, _GREEN, _GREY = "#1f5fa8", "#c8553d", "#3c8d5a", "#8a8a8a"


def draw_lesson(lesson: Lesson, png: Path) -> None:
    """Draw one block with the codes of two formats, and error against size for all.

    Labels are English: matplotlib's own font has no Chinese letters.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "train") from error
    figure = Figure(figsize=(11.0, 4.6), dpi=120)
    figure.set_layout_engine("constrained")
    _block(figure.add_subplot(1, 2, 1), lesson)
    _errors(figure.add_subplot(1, 2, 2), lesson)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)


def _block(axes: Any, lesson: Lesson) -> None:
    """An ordinary block, and what INT4 by tensor and by block make of it."""
    values = lesson.weight.values.reshape(-1, BLOCK)
    spread = np.abs(values).max(axis=1)
    at = int(np.argsort(spread)[len(spread) // 2])
    axes.plot(values[at], "o", color="black", markersize=4, label="weights")
    shown = (
        ("INT4 symmetric, tensor", _RED, "one scale for the tensor"),
        ("Q4_0", _BLUE, "one scale for the block (Q4_0)"),
    )
    for name, colour, label in shown:
        back = lesson.back[name].reshape(-1, BLOCK)[at]
        axes.step(range(BLOCK), back, where="mid", color=colour, linewidth=1.2, label=label)
    axes.set_title("32 weights, four bits each", fontsize=10)
    axes.set_xlabel("weight in its block")
    axes.set_ylabel("value")
    axes.legend(fontsize=8, frameon=False)


def _errors(axes: Any, lesson: Lesson) -> None:
    marks = {
        "tensor": ("^", _RED),
        "row": ("s", _GREY),
        "block of 32": ("o", _BLUE),
        "super-block of 256": ("D", _GREEN),
    }
    seen: set[str] = set()
    for row in lesson.rows:
        mark, colour = marks[row.group]
        label = f"scale for each {row.group}" if row.group not in seen else None
        seen.add(row.group)
        relative = max(row.relative, 1e-5)
        axes.plot(row.bits, relative, mark, color=colour, label=label)
        if row.scheme.startswith("Q"):
            place = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(row.scheme, (row.bits, relative), color=colour, **place)
    axes.set_yscale("log")
    axes.set_title(f"{lesson.weight.name}", fontsize=10)
    axes.set_xlabel("bits per weight, scales included")
    axes.set_ylabel("relative error (RMS)")
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize=8, frameon=False)
