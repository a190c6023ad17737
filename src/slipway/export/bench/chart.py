"""Draw a benchmark: a panel for each kind of work, with the deviation of the repetitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.errors import missing_extra
from slipway.export.bench.analyse import value_of, varied
from slipway.export.bench.grid import Kind
from slipway.export.bench.records import Result

_COLOURS = ("#1f5fa8", "#c8553d", "#3c8d5a", "#8a5fb0", "#b38600", "#4a9aa5", "#99506b", "#6b6b6b")
_MOST_LINES = len(_COLOURS)
_TITLES: dict[Kind, str] = {
    "prompt": "reading a prompt",
    "decode": "writing an answer",
    "streams": "several answers at once",
}


def draw_bench(results: Sequence[Result], png: Path, *, title: str) -> None:
    """Draw tokens/s over the lengths, or as bars where a panel has one length only.

    Labels are English: matplotlib's own font has no Chinese letters.

    Raises:
        ResourceError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "train") from error
    kinds = list(dict.fromkeys(result.point.kind for result in results))
    rows = max(len({_line(r, results) for r in results if r.point.kind == k}) for k in kinds)
    figure = Figure(figsize=(5.2 * len(kinds), max(3.6, 1.8 + 0.42 * rows)), dpi=120)
    figure.set_layout_engine("constrained")
    figure.suptitle(title if title.isascii() else "benchmark", fontsize=11)
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), place + 1)
        _panel(axes, [result for result in results if result.point.kind == kind], results, kind)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)


def _line(result: Result, every: Sequence[Result]) -> str:
    """What tells this result's line from the others."""
    parts = [result.model] if len({r.model for r in every}) > 1 else []
    names = {
        "threads": "threads",
        "batch": "b",
        "ubatch": "ub",
        "flash_attn": "fa",
        "kv_type": "kv",
    }
    parts += [f"{names[axis]} {value_of(result, axis)}" for axis in varied(every)]
    if result.point.kind != "streams" and len({r.point.depth for r in every}) > 1:
        parts.append(f"@{result.point.depth}")
    label = ", ".join(parts) or "tokens/s"
    return label if label.isascii() else label.encode("ascii", "replace").decode()


def _size(result: Result) -> int:
    point = result.point
    if point.kind == "streams":
        return point.streams
    return point.prompt or point.decode


def _panel(axes: Any, results: Sequence[Result], every: Sequence[Result], kind: Kind) -> None:
    lines: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        lines[_line(result, every)].append(result)
    axes.set_title(_TITLES[kind], fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    sizes = sorted({_size(result) for result in results})
    if len(sizes) > 1 and len(lines) <= _MOST_LINES:
        _draw_lines(axes, lines, kind, sizes)
    else:
        _draw_bars(axes, lines, len(sizes) > 1)


def _draw_lines(axes: Any, lines: dict[str, list[Result]], kind: Kind, sizes: list[int]) -> None:
    for colour, (label, results) in zip(_COLOURS, lines.items(), strict=False):
        ordered = sorted(results, key=_size)
        axes.errorbar(
            [_size(result) for result in ordered],
            [result.mean for result in ordered],
            yerr=[result.stddev for result in ordered],
            color=colour,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.4,
            label=label,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("streams" if kind == "streams" else "tokens")
    axes.set_ylabel("tokens/s, all together" if kind == "streams" else "tokens/s")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    if list(lines) != ["tokens/s"]:
        axes.legend(fontsize=8, frameon=False)


def _draw_bars(axes: Any, lines: dict[str, list[Result]], with_size: bool) -> None:
    bars = [(label, result) for label, results in lines.items() for result in results]
    bars.sort(key=lambda bar: bar[1].mean)
    names = [f"{label}, {result.point.label}" if with_size else label for label, result in bars]
    axes.barh(
        range(len(bars)),
        [result.mean for _, result in bars],
        xerr=[result.stddev for _, result in bars],
        color=_COLOURS[0],
        height=0.6,
        capsize=3,
        ecolor="#444444",
    )
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    most = max(result.mean + result.stddev for _, result in bars)
    for place, (_, result) in enumerate(bars):
        end = result.mean + result.stddev + 0.015 * most
        axes.text(end, place, f"{result.mean:.0f}", va="center", fontsize=8)
    axes.set_xlim(0, most * 1.14)
    axes.set_ylim(-0.6, max(len(bars) - 0.4, 1.6))
    sizes = sorted({result.point.label for _, result in bars})
    axes.set_xlabel("tokens/s" if with_size else f"tokens/s, {sizes[0]}")
