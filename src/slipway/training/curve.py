"""The loss curve of a run as a PNG."""

from __future__ import annotations

import io
from pathlib import Path

from slipway.core.errors import missing_extra
from slipway.core.events import read_events
from slipway.core.files import write_bytes


def curve_points(events: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, loss) of training and of evals; a step done again after a resume counts once."""
    train: dict[int, float] = {}
    evals: dict[int, float] = {}
    for event in read_events(events, "metric"):
        target = train if event.get("kind") == "train" else evals
        target[int(event["step"])] = float(event["loss"])
    return sorted(train.items()), sorted(evals.items())


def smooth(values: list[float]) -> list[float]:
    """The mean of each value and its neighbours, about a fifteenth of the run to either side."""
    reach = max(1, len(values) // 15)
    out = []
    for at in range(len(values)):
        near = values[max(0, at - reach) : at + reach + 1]
        out.append(sum(near) / len(near))
    return out


def draw_curve(events: Path, png: Path, *, title: str) -> None:
    """Draw training loss (raw and smoothed) and eval points from a run's events.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise missing_extra("matplotlib", "train") from error
    train, evals = curve_points(events)
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if train:
        steps = [step for step, _ in train]
        raw = [loss for _, loss in train]
        axes.plot(steps, raw, color="#9db8d9", linewidth=0.8, label="training, each step")
        axes.plot(steps, smooth(raw), color="#1f5fa8", linewidth=1.8, label="training, smoothed")
    if evals:
        axes.plot(
            [step for step, _ in evals],
            [loss for _, loss in evals],
            color="#c8501e",
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
                color="#c8501e",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (nats per label token)")
    # matplotlib's own font has no Chinese, and would warn for each missing letter
    axes.set_title(title if title.isascii() else "training run")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if train or evals:
        axes.legend(frameon=False)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    write_bytes(png, image.getvalue())
