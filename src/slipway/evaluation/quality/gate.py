"""The gate: what every level must keep, for use in CI and before a name is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slipway.core.errors import ProofError
from slipway.core.i18n import Text, tr
from slipway.evaluation.metrics import METRICS
from slipway.evaluation.quality.model import QualityCard


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits; None and missing names are no condition.

    Attributes:
        max_kld: largest mean KL divergence from the unquantised model, nats per token.
        min_top1: least part (0..1) of the tokens at which both hold the same token most likely.
        max_drop: metric -> most that it may be worse than the unquantised model's, in its points.
    """

    max_kld: float | None = None
    min_top1: float | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether there is no condition."""
        return self.max_kld is None and self.min_top1 is None and not self.max_drop


def drop_of(name: str, difference: Mapping[str, Any]) -> float:
    """How much worse a metric is, in its points; negative when it is better."""
    change = float(difference["value"])
    return -change if METRICS[name].better == "higher" else change


def failures_of(name: str, level: Mapping[str, Any], gate: Gate) -> list[Text]:
    """What one level does not meet; a figure that was not measured, or is NaN, meets nothing."""
    found = []
    kld, top1 = level.get("kld_mean"), level.get("top1")
    if gate.max_kld is not None and not (kld is not None and kld <= gate.max_kld):
        found.append(
            tr("{level}: KLD {value} is above {limit}", level=name, value=_number(kld),
               limit=f"{gate.max_kld:g}")
        )  # fmt: skip
    if gate.min_top1 is not None and not (top1 is not None and top1 >= gate.min_top1):
        found.append(
            tr("{level}: top-1 {value} is below {limit}", level=name, value=_number(top1),
               limit=f"{gate.min_top1:g}")
        )  # fmt: skip
    for metric, limit in gate.max_drop.items():
        difference = level.get("differences", {}).get(metric)
        if difference is None:
            found.append(tr("{model}: {metric} was not measured", model=name, metric=metric))
        elif not drop_of(metric, difference) <= limit:
            found.append(
                tr("{level}: {metric} is worse by {value}, and {limit} is allowed", level=name,
                   metric=metric, value=_number(drop_of(metric, difference)), limit=f"{limit:g}")
            )  # fmt: skip
    return found


def check_gate(card: QualityCard, gate: Gate) -> list[Text]:
    """What the levels do not meet, one sentence each; rows of bitsandbytes are not judged."""
    judged = [(name, row) for name, row in card.by_size() if not row.get("packing")]
    return [text for name, row in judged for text in failures_of(name, row, gate)]


def require_gate(card: QualityCard, gate: Gate) -> None:
    """Let the card pass.

    Raises:
        ProofError: a level does not meet a condition; all are in the message.
    """
    broken = check_gate(card, gate)
    if broken:
        raise ProofError(
            "quality.gate",
            tr("the quality gate is not passed:\n{lines}", lines=_lines(broken)),
            tr("quantise to a larger type, such as `-t Q8_0`, or with an importance matrix"),
        )


def _lines(texts: list[Text]) -> Text:
    lines = texts[0]
    for text in texts[1:]:
        lines = tr("{first}\n{rest}", first=lines, rest=text)
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
