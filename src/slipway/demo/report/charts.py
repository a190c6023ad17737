"""The report's pictures: loss curves, and size against quality of the quants."""

from __future__ import annotations

from io import BytesIO
from typing import Any

ACCENT, SECOND, MUTED = "#0b6e6e", "#b3541e", "#5f5b53"


def loss_png(report: dict[str, Any]) -> bytes:
    """Training loss (raw and smoothed) and held-out loss over the steps, as PNG."""
    figure, axes = _figure()
    raw = report["training"]["curve"]["loss"]
    held_out = report["training"]["curve"]["eval_loss"]
    if raw:
        steps, losses = zip(*raw, strict=True)
        axes.plot(steps, losses, color=ACCENT, alpha=0.3, linewidth=1)
        axes.plot(steps, smooth(list(losses)), color=ACCENT, linewidth=2, label="train")
    if held_out:
        steps, losses = zip(*held_out, strict=True)
        axes.plot(steps, losses, color=SECOND, marker="o", linewidth=2, label="held-out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False)
    return _png(figure)


def quants_png(report: dict[str, Any]) -> bytes:
    """Mean KLD against file size, one point a quant, as PNG."""
    figure, axes = _figure()
    rows = sorted(
        (row["size_bytes"] / 1e6, row["kld_mean"], name) for name, row in report["quants"].items()
    )
    axes.plot([r[0] for r in rows], [r[1] for r in rows], color=ACCENT, marker="o", linewidth=1.5)
    for size, kld, name in rows:
        axes.annotate(name, (size, kld), textcoords="offset points", xytext=(7, 7), color=MUTED)
    axes.set_xlabel("size (MB)")
    axes.set_ylabel("mean KLD against unquantised (nats)")
    axes.margins(x=0.18, y=0.2)
    axes.set_ylim(bottom=0)
    return _png(figure)


def smooth(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average with its start corrected, so that it does not lag at first."""
    average, norm, out = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(average / norm)
    return out


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e0d8", linewidth=0.8)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
