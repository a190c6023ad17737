"""Which channel has most likely kept a prompt's beginning in its KV cache.

Rendezvous hashing: each channel gets a number from the hash of (prefix, channel), and the highest
one wins. When a channel goes, only the prefixes that it had move, and they spread over all others;
when it comes back, they return. Weights are obeyed. A bound on the load keeps a favourite prefix
from drowning one channel, and a channel that is refused is not here at all, so a dead one loses
its prefixes at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slipway.gateway.routing.channel import Channel
from slipway.gateway.routing.live import Loads

_MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """A 64-bit number of which every bit depends on every bit of `value` (splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def rendezvous(prefix: int, channels: Sequence[Channel]) -> list[Channel]:
    """Channels by their claim on a prefix, the strongest first; weight 0 comes last."""
    return sorted(channels, key=lambda channel: _claim(prefix, channel), reverse=True)


def bounded(
    ordered: Sequence[Channel], loads: Loads, now: float, bound: float, floor: int
) -> list[Channel]:
    """The same channels with those that are full or have too much load behind the others.

    Args:
        bound: how many times its fair share of all requests in flight a channel may have.
        floor: a load up to this is too much only for a channel that has fewer slots.
    """
    running = {channel.id: loads.running(channel.id, now) for channel in ordered}
    # the request to be placed counts too
    total = sum(running.values()) + 1
    weights = sum(channel.weight for channel in ordered) or 1
    cool: list[Channel] = []
    hot: list[Channel] = []
    for channel in ordered:
        limit = max(floor, math.ceil(bound * total * max(channel.weight, 1) / weights))
        slots = loads.slots(channel)
        if slots is not None:
            limit = min(limit, slots)
        (cool if running[channel.id] < limit else hot).append(channel)
    return cool + hot


def _claim(prefix: int, channel: Channel) -> tuple[bool, float]:
    # two rounds, since channel ids differ in a few low bits only
    number = mixed(prefix ^ mixed(channel.id))
    share = ((number >> 11) + 0.5) / (1 << 53)
    return channel.weight > 0, max(channel.weight, 1) / -math.log(share)
