"""Which channels a request may go to, and in which order. Pure: no I/O, randomness is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from slipway.gateway.outbound import Reach

ChannelKind = Literal["slipway", "openai", "ollama"]
LOCAL_KINDS: frozenset[ChannelKind] = frozenset({"slipway", "ollama"})


@dataclass(frozen=True, slots=True)
class Channel:
    """A place that requests can go to.

    Attributes:
        base_url: without `/v1`.
        models: name that clients use -> name at the upstream.
        priority: higher ones are tried first.
        weight: share of the requests among channels of equal priority; 0 only as a last resort.
        sealed_key: the upstream's own key, see `slipway.gateway.seal`.
        created_at: UTC milliseconds.
    """

    id: int
    name: str
    kind: ChannelKind
    base_url: str
    reach: Reach
    models: Mapping[str, str]
    priority: int = 0
    weight: int = 1
    enabled: bool = True
    sealed_key: bytes | None = field(default=None, repr=False)
    created_at: int = 0

    def as_json(self) -> dict[str, Any]:
        """The channel as JSON; of its own key only whether there is one."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "base_url": self.base_url,
            "reach": self.reach,
            "models": dict(self.models),
            "priority": self.priority,
            "weight": self.weight,
            "enabled": self.enabled,
            "has_key": self.sealed_key is not None,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """One step of a plan: a channel and the model's name there."""

    channel: Channel
    upstream_model: str


def resolve_model(channels: Iterable[Channel], asked: str) -> str | None:
    """The name under which enabled channels offer a model; None when none does.

    As with Ollama, a name without a tag means `:latest`; a name that is offered exactly as it was
    asked for wins.
    """
    offered = {name for channel in channels if channel.enabled for name in channel.models}
    other = asked.removesuffix(":latest") if asked.endswith(":latest") else f"{asked}:latest"
    return next((name for name in (asked, other) if name in offered), None)


def plan(channels: Sequence[Channel], model: str, draws: Iterable[float]) -> list[Target]:
    """The targets of a request in the order in which they are to be tried, each channel once.

    Among channels of one priority the order is drawn by weight without replacement, so a channel
    of weight 3 comes before one of weight 1 in three of four requests.

    Args:
        model: a name as `resolve_model` gives it.
        draws: numbers in [0, 1), one per channel.
    """
    left = [channel for channel in channels if channel.enabled and model in channel.models]
    numbers = iter(draws)
    ordered: list[Target] = []
    while left:
        top = max(channel.priority for channel in left)
        chosen = _draw([c for c in left if c.priority == top], next(numbers))
        left.remove(chosen)
        ordered.append(Target(chosen, chosen.models[model]))
    return ordered


def _draw(group: list[Channel], number: float) -> Channel:
    weighted = [channel for channel in group if channel.weight > 0] or group
    weights = [max(channel.weight, 1) for channel in weighted]
    mark = number * sum(weights)
    for channel, weight in zip(weighted, weights, strict=True):
        mark -= weight
        if mark < 0:
            return channel
    return weighted[-1]
