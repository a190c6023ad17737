"""The picture: what each level keeps, against its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.core.errors import missing_extra
from slipway.evaluation.quality.advice import GOOD, advise
from slipway.evaluation.quality.model import QualityCard

_BLUE, _RED, _GREEN, _GREY = "#1f5fa8", "#c8553d", "#3c8d5a", "#8a8a8a"


def draw_quality(card: QualityCard, png: Path) -> None:
    """Draw KLD against size, and each metric's change with its interval where rows were answered.

    Labels are English: matplotlib's own font has no Chinese letters.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "train") from error
    levels = card.by_size()
    with_metrics = any(row.get("differences") for _, row in levels)
    figure = Figure(figsize=(10.4 if with_metrics else 5.6, 4.4), dpi=120)
    figure.set_layout_engine("constrained")
    panels = 2 if with_metrics else 1
    _divergence(figure.add_subplot(1, panels, 1), card)
    if with_metrics:
        _changes(figure.add_subplot(1, panels, 2), levels)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)


def _divergence(axes: Any, card: QualityCard) -> None:
    chosen = advise(card).level
    points = [
        (name, row["size_bytes"] / 1e6, row["kld_mean"], row.get("kld_error", 0.0), row)
        for name, row in card.by_size()
        if row.get("kld_mean", 0) > 0
    ]
    for place, (name, size, kld, error, row) in enumerate(points):
        above = place % 2 == 0  # neighbours in size often lie close together
        colour = _GREEN if name == chosen else _GREY if row.get("packing") else _BLUE
        low = min(1.96 * error, 0.9 * kld)
        axes.errorbar(
            *([size], [kld]),
            yerr=[[low], [1.96 * error]],
            **{"fmt": "s" if row.get("packing") else "o", "color": colour, "capsize": 3},
        )
        label = {"xytext": (6, 5 if above else -11), "fontsize": 8, "color": colour}
        named = f"{name}  {row['top1']:.1%}"
        axes.annotate(named, (size, kld), textcoords="offset points", **label)
    axes.axhline(GOOD.max_kld, color=_RED, linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    widest = max((size for _, size, *_ in points), default=1.0)
    least = min((size for _, size, *_ in points), default=0.0)
    axes.set_xlim(least - 0.08 * widest, widest * 1.3)
    axes.set_xlabel("size of the file, MB")
    axes.set_ylabel("KLD from the unquantised model, nats per token")
    axes.set_title("what is lost (beside each name: same most likely token)", fontsize=9)
    _plain(axes)


def _changes(axes: Any, levels: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [(name, row["differences"]) for name, row in levels if row.get("differences")]
    for place, (metric, colour) in enumerate((("chrf", _BLUE), ("rouge_l", _RED))):
        shift = 0.12 if place else -0.12
        found = [changes[metric] for _, changes in rows]
        axes.errorbar(
            [change["value"] for change in found],
            [at + shift for at in range(len(rows))],
            xerr=[
                [max(0.0, change["value"] - change["low"]) for change in found],
                [max(0.0, change["high"] - change["value"]) for change in found],
            ],
            **{"fmt": "o", "color": colour, "capsize": 3, "label": metric},
        )
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("change, points (95 % interval)")
    axes.set_title("answers against the unquantised model's", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
