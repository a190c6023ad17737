"""Conditions that a result must meet, for use in CI: `rouge_l=30`, `max-drop chrf=2`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway.core.errors import ProofError, UsageError, unknown_key
from slipway.core.i18n import Text, tr
from slipway.evaluation.metrics import METRICS


@dataclass(frozen=True, slots=True)
class Gates:
    """Bounds by metric.

    Attributes:
        least: every model but the baseline must reach this.
        most: none may be above this (loss, perplexity).
        drop: none may be worse than the baseline by more than this.
    """

    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    drop: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Every metric that a bound is set for."""
        return {*self.least, *self.most, *self.drop}


def parse_bounds(texts: Sequence[str], option: str) -> dict[str, float]:
    """`METRIC=NUMBER` texts as numbers.

    Raises:
        UsageError: another form, an unknown metric, or no finite number.
    """
    found = {}
    for text in texts:
        name, sign, number = text.partition("=")
        if name not in METRICS:
            raise unknown_key(name, METRICS, f"`{option}`")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not sign or not math.isfinite(value):
            raise UsageError(
                "eval.bad_gate",
                tr("`{option} {text}` is not METRIC=NUMBER", option=option, text=text),
                tr("write it like `{option} rouge_l=30`", option=option),
            )
        found[name] = value
    return found


def check(results: Mapping[str, Any], gates: Gates) -> list[Text]:
    """What is not met, one sentence each; a metric that was not measured is not met.

    Args:
        results: as in `results.json`.
    """
    baseline = results["baseline"]
    broken: list[Text] = []
    judged = [label for label in results["models"] if label != baseline] or [baseline]
    for label in judged:
        values = {n: m["value"] for n, m in results["models"][label]["metrics"].items()}
        changes = results["differences"].get(label, {})
        for name in sorted(gates.names):
            known = changes if name in gates.drop else values
            if name not in known:
                broken.append(tr("{model}: {metric} was not measured", model=label, metric=name))
        broken += _outside(label, values, gates)
        broken += _dropped(label, changes, gates)
    return broken


def _outside(label: str, values: Mapping[str, float], gates: Gates) -> list[Text]:
    low = [
        tr("{model}: {metric} is {value:.4g}, less than {bound:.4g}",
           model=label, metric=name, value=values[name], bound=bound)
        for name, bound in gates.least.items()
        if name in values and values[name] < bound
    ]  # fmt: skip
    high = [
        tr("{model}: {metric} is {value:.4g}, more than {bound:.4g}",
           model=label, metric=name, value=values[name], bound=bound)
        for name, bound in gates.most.items()
        if name in values and values[name] > bound
    ]  # fmt: skip
    return low + high


def _dropped(label: str, changes: Mapping[str, Any], gates: Gates) -> list[Text]:
    broken = []
    for name, bound in gates.drop.items():
        if name not in changes:
            continue
        change = changes[name]["value"]
        loss = -change if METRICS[name].better == "higher" else change
        if loss > bound:
            broken.append(
                tr(
                    "{model}: {metric} is worse than the baseline by {loss:.4g}; "
                    "{bound:.4g} is allowed",
                    model=label,
                    metric=name,
                    loss=loss,
                    bound=bound,
                )
            )
    return broken


def require(results: Mapping[str, Any], gates: Gates) -> None:
    """Raise when a condition is not met.

    Raises:
        ProofError: every condition that is not met is in the message.
    """
    _raise(check(results, gates))


def require_no_drop(label: str, changes: Mapping[str, Any], gates: Gates) -> None:
    """As `require`, for the differences of one model alone."""
    missing = [
        tr("{model}: {metric} was not measured", model=label, metric=name)
        for name in sorted(gates.drop)
        if name not in changes
    ]
    _raise(missing + _dropped(label, changes, gates))


def _raise(broken: Sequence[Text]) -> None:
    if not broken:
        return
    lines = broken[0]
    for text in broken[1:]:
        lines = tr("{first}\n{rest}", first=lines, rest=text)
    raise ProofError(
        "eval.gate",
        tr("{count} conditions are not met:\n{lines}", count=len(broken), lines=lines),
    )
