"""Channels indexed by model and group, made once for each change of the settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from slipway.gateway.routing.channel import Channel, match_name


@dataclass(frozen=True, slots=True)
class Tier:
    """Enabled channels of one priority.

    Attributes:
        marks: running sums of the weights, to draw a channel without looking at all of them.
    """

    priority: int
    channels: tuple[Channel, ...]
    marks: tuple[int, ...]


class ChannelTable:
    """All channels of the gateway. It does not change: make another one when the settings do."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.channels: tuple[Channel, ...] = tuple(channels)
        self._of_model: dict[str, list[Channel]] = {}
        for channel in self.channels:
            for model in channel.models:
                self._of_model.setdefault(model, []).append(channel)
        self._offered = {
            model for model, own in self._of_model.items() if any(c.enabled for c in own)
        }
        self._tiers: dict[tuple[str, str | None], tuple[Tier, ...]] = {}

    def of_model(self, model: str) -> Sequence[Channel]:
        """The channels that have a model, disabled ones too."""
        return self._of_model.get(model, ())

    def resolve(self, asked: str) -> str | None:
        """As `resolve_model`, without a look at every channel."""
        return match_name(self._offered, asked)

    def known_name(self, asked: str) -> str | None:
        """As `resolve`, among the models of disabled channels too."""
        return match_name(self._of_model, asked)

    def tiers(self, model: str, group: str | None) -> tuple[Tier, ...]:
        """Enabled channels that serve a group, by falling priority; group None: all groups."""
        known = self._tiers.get((model, group))
        if known is None:
            known = tuple(_tiers(self.of_model(model), group))
            self._tiers[(model, group)] = known
        return known


def serves(channel: Channel, group: str | None) -> bool:
    """Whether a channel serves a group of users."""
    return group is None or not channel.groups or group in channel.groups


def _tiers(channels: Iterable[Channel], group: str | None) -> Iterable[Tier]:
    by_priority: dict[int, list[Channel]] = {}
    for channel in channels:
        if channel.enabled and serves(channel, group):
            by_priority.setdefault(channel.priority, []).append(channel)
    for priority in sorted(by_priority, reverse=True):
        own = tuple(by_priority[priority])
        yield Tier(priority, own, tuple(accumulate(max(0, c.weight) for c in own)))
