"""The curves of runs as PNG: loss and eval loss, learning rate, gradient norm; several overlaid."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import missing_extra
from slipway.core.events import read_events
from slipway.core.files import write_bytes

_TRAIN_PALE, _TRAIN, _EVAL = "#9db8d9", "#1f5fa8", "#c8501e"
# eight that stay apart for the colour-blind too
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#666666")

Points = list[tuple[int, float]]


def points(events: Path) -> dict[str, Points]:
    """(step, value) by name: `loss`, `eval`, `lr`, `grad_norm`.

    A step that was done again after a resume counts once. What is not a finite number is left out.
    """
    found: dict[str, dict[int, float]] = {"loss": {}, "eval": {}, "lr": {}, "grad_norm": {}}
    for event in read_events(events, "metric"):
        train = event.get("kind") == "train"
        for name in ("loss", "lr", "grad_norm") if train else ("loss",):
            value = event.get(name)
            if isinstance(value, int | float) and value - value == 0:
                found[name if train else "eval"][int(event["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}


def curve_points(events: Path) -> tuple[Points, Points]:
    """(step, loss) of training and of evals; a step done again after a resume counts once."""
    found = points(events)
    return found["loss"], found["eval"]


def smooth(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, about a fifteenth of the run to either side."""
    reach = max(1, len(values) // 15)
    out = []
    for at in range(len(values)):
        near = values[max(0, at - reach) : at + reach + 1]
        out.append(sum(near) / len(near))
    return out


def draw_curve(events: Path, png: Path, *, title: str) -> None:
    """Draw training loss (raw and smoothed) and eval points, learning rate and gradient norm.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    figure = _figure(8, 6.75)
    grid = figure.add_gridspec(2, 2, height_ratios=[2, 1])
    found = points(events)
    axes = figure.add_subplot(grid[0, :])
    _draw_loss(axes, found)
    # matplotlib's own font has no Chinese, and would warn for each missing letter
    axes.set_title(title if title.isascii() else "training run")
    for place, (name, label) in enumerate(
        (("lr", "learning rate"), ("grad_norm", "gradient norm"))
    ):
        small = figure.add_subplot(grid[1, place])
        if found[name]:
            small.plot(*zip(*found[name], strict=True), color=_TRAIN, linewidth=1.0)
        _frame(small, label)
    _save(figure, png)


def draw_overlay(runs: Sequence[tuple[str, Path]], png: Path) -> None:
    """Draw the losses of several runs (name, events file) over each other.

    Lines are training losses, smoothed; dots with dashes are evals.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    figure = _figure(8, 4.5)
    axes = figure.add_subplot()
    for at, (name, events) in enumerate(runs):
        found = points(events)
        colour = _COLOURS[at % len(_COLOURS)]
        label = name if name.isascii() else f"run {at + 1}"
        if found["loss"]:
            steps, losses = zip(*found["loss"], strict=True)
            axes.plot(steps, smooth(list(losses)), color=colour, linewidth=1.6, label=label)
        if found["eval"]:
            axes.plot(
                *zip(*found["eval"], strict=True),
                color=colour,
                marker="o",
                markersize=4,
                linestyle="--",
                linewidth=1.0,
                label=f"{label}, held-out",
            )
    _frame(axes, "loss (nats per label token)", legend=True)
    _save(figure, png)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "train") from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _draw_loss(axes: Any, found: dict[str, Points]) -> None:
    if found["loss"]:
        steps = [step for step, _ in found["loss"]]
        raw = [loss for _, loss in found["loss"]]
        axes.plot(steps, raw, color=_TRAIN_PALE, linewidth=0.8, label="training, each step")
        axes.plot(steps, smooth(raw), color=_TRAIN, linewidth=1.8, label="training, smoothed")
    evals = found["eval"]
    if evals:
        axes.plot(
            *zip(*evals, strict=True),
            color=_EVAL,
            marker="o",
            markersize=5,
            linewidth=1.4,
            label="held-out",
        )
        for step, loss in (evals[0], evals[-1]):
            axes.annotate(
                f"{loss:.3f}",
                (step, loss),
                textcoords="offset points",
                xytext=(9, 2) if step == evals[0][0] else (-34, 8),
                color=_EVAL,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )
    _frame(axes, "loss (nats per label token)", legend=True)


def _frame(axes: Any, label: str, *, legend: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _save(figure: Any, png: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_bytes(png, image.getvalue())
