"""What the gateway knows of its channels at this moment: load, times to first token, prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.gateway.routing.breakers import Breakers
from slipway.gateway.routing.channel import Channel

# an upstream's own report of its load is believed for so long
REPORT_S = 10.0
_EWMA_SHARE = 0.2
# a time to first token that old says nothing, so the channel is tried again
_FORGET_TTFT_S = 300.0


@dataclass(slots=True)
class _Reported:
    slots: int
    busy: int
    at: float


class Loads:
    """Requests in flight for each channel, from this process and from what upstreams report."""

    def __init__(self) -> None:
        self._in_flight: dict[int, int] = {}
        self._reported: dict[int, _Reported] = {}

    def begin(self, channel_id: int) -> None:
        """A request is being sent."""
        self._in_flight[channel_id] = self._in_flight.get(channel_id, 0) + 1

    def end(self, channel_id: int) -> None:
        """It is over, however it ended. Once for each `begin`."""
        left = self._in_flight.get(channel_id, 0) - 1
        if left > 0:
            self._in_flight[channel_id] = left
        else:
            self._in_flight.pop(channel_id, None)

    def report(self, channel_id: int, slots: int, busy: int, waiting: int, now: float) -> None:
        """What an upstream says of itself, as llama.cpp's `/slots` and `requests_deferred` do.

        It counts for `REPORT_S` seconds, and shows requests that did not come through here.
        """
        self._reported[channel_id] = _Reported(max(1, slots), max(0, busy) + max(0, waiting), now)

    def running(self, channel_id: int, now: float) -> int:
        """Requests it works on or has waiting."""
        own = self._in_flight.get(channel_id, 0)
        told = self._reported.get(channel_id)
        return own if told is None or now - told.at > REPORT_S else max(own, told.busy)

    def slots(self, channel: Channel) -> int | None:
        """Requests it can work on at a time; None when neither it nor its settings say."""
        told = self._reported.get(channel.id)
        return channel.slots if told is None else told.slots

    def full(self, channel: Channel, now: float) -> bool:
        """Whether another request would have to wait there, as far as is known."""
        slots = self.slots(channel)
        return slots is not None and self.running(channel.id, now) >= slots

    def pressure(self, channel: Channel, now: float) -> float:
        """Requests per slot; where the slots are not known the weight stands in for them."""
        slots = self.slots(channel) or max(1, channel.weight)
        return self.running(channel.id, now) / slots


class Latencies:
    """Moving average of the time to the first token for each channel and model."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], tuple[float, float]] = {}

    def observe(self, channel_id: int, model: str, ttft_s: float, now: float) -> None:
        """Take in one answer's time to first token in seconds."""
        known = self.ttft_s(channel_id, model, now)
        mean = ttft_s if known is None else known + _EWMA_SHARE * (ttft_s - known)
        self._known[(channel_id, model)] = (mean, now)

    def ttft_s(self, channel_id: int, model: str, now: float) -> float | None:
        """The average in seconds; None when nothing recent is known."""
        known = self._known.get((channel_id, model))
        return None if known is None or now - known[1] > _FORGET_TTFT_S else known[0]


@dataclass(slots=True)
class Live:
    """Everything about the moment that routing looks at; one per process.

    Attributes:
        prices: (channel id, model) -> what it costs us, in micro-units per million tokens of a
            usual mix of input and output; channels without a price come last by cost.
    """

    breakers: Breakers
    loads: Loads = field(default_factory=Loads)
    latencies: Latencies = field(default_factory=Latencies)
    prices: Mapping[tuple[int, str], int] = field(default_factory=dict)
