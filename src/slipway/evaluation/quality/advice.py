"""Which level to take, in one sentence with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway.core.i18n import Text, tr
from slipway.evaluation.quality.gate import Gate, failures_of
from slipway.evaluation.quality.model import QualityCard

# a tenth of a bit per token; a convention, see docs/quality.md
GOOD = Gate(max_kld=0.07, min_top1=0.85)
_SIGMAS = 1.96


@dataclass(frozen=True, slots=True)
class Advice:
    """The level to take.

    Attributes:
        level: its name; None when there is none to choose from.
        sentence: for people.
        within: whether it is within the limits.
        alike: smaller levels that cannot be told from it by KLD.
    """

    level: str | None
    sentence: Text
    within: bool
    alike: tuple[str, ...] = ()


def advise(card: QualityCard, gate: Gate | None = None) -> Advice:
    """The smallest level within the limits of a gate; else the one nearest to the unquantised.

    Without a gate the limits are `GOOD`. A metric that is worse beyond chance (its paired interval
    leaves out 0) counts against a level too.
    """
    limits = gate if gate is not None and not gate.is_open else GOOD
    levels = [(name, row) for name, row in card.by_size() if not row.get("packing")]
    if not levels:
        return Advice(None, tr("no level was measured"), False)
    good = [(n, r) for n, r in levels if not failures_of(n, r, limits) and not real_drops(r)]
    if not good:
        name, row = min(levels, key=lambda pair: _kld(pair[1]))
        return Advice(
            name,
            tr(
                "{level} is nearest to the unquantised model, but no level is within the limits "
                "({limits}): {why}",
                level=name,
                limits=_limits(limits),
                why=_figures(row),
            ),
            False,
            _alike(name, row, levels),
        )
    name, row = good[0]
    share = row["size_bytes"] / card.reference["size_bytes"]
    sentence = tr(
        "take {level}: the smallest that keeps the model's answers within {limits}; {figures}, "
        "{share} of the unquantised size",
        level=name,
        limits=_limits(limits),
        figures=_figures(row),
        share=f"{share:.0%}",
    )
    return Advice(name, sentence, True, _alike(name, row, levels))


def real_drops(level: Mapping[str, Any]) -> list[str]:
    """Metrics that are worse than the unquantised model's beyond chance."""
    differences = level.get("differences", {})
    return [name for name, d in differences.items() if d["real"] and d["better"] is False]


def _kld(row: Mapping[str, Any]) -> float:
    value = float(row.get("kld_mean", float("inf")))
    return value if value == value else float("inf")


def _alike(
    name: str, row: Mapping[str, Any], levels: list[tuple[str, dict[str, Any]]]
) -> tuple[str, ...]:
    """Smaller levels whose KLD is not larger beyond the measurement's error."""
    found = []
    for other, its in levels:
        if other != name and its["size_bytes"] < row["size_bytes"]:
            error = (
                _SIGMAS * (its.get("kld_error", 0.0) ** 2 + row.get("kld_error", 0.0) ** 2) ** 0.5
            )
            if _kld(its) - _kld(row) <= error:
                found.append(other)
    return tuple(found)


def _figures(row: Mapping[str, Any]) -> str:
    found = [f"KLD {row['kld_mean']:.4f}", f"top-1 {row['top1']:.1%}"]
    for name in real_drops(row):
        found.append(f"{name} {row['differences'][name]['value']:+.1f}")
    return ", ".join(found)


def _limits(gate: Gate) -> str:
    found = []
    if gate.max_kld is not None:
        found.append(f"KLD ≤ {gate.max_kld:g}")
    if gate.min_top1 is not None:
        found.append(f"top-1 ≥ {gate.min_top1:.0%}")
    found += [f"{name} -{limit:g}" for name, limit in gate.max_drop.items()]
    return ", ".join(found)
