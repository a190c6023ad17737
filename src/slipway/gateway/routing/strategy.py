"""Which channels a request may go to, and in which order.

Pure: what is known of the moment (`Live`), the time and randomness are passed in. Priority comes
first: every channel of a higher tier is tried before any of a lower one. Within a tier the order
is the strategy's, or the prefix affinity's where the request has a prefix. Channels of weight 0,
then those known to be full, stand behind the others of their tier.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from slipway.gateway.routing.affinity import bounded, mixed, rendezvous
from slipway.gateway.routing.breaker import Standing
from slipway.gateway.routing.breakers import Breakers
from slipway.gateway.routing.channel import Channel, Target
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.table import ChannelTable, Tier, serves

Strategy = Literal["weighted", "least_busy", "latency", "cost"]
RefusalCode = Literal[
    "disabled",
    "not_pinned",
    "group",
    "tag",
    "capability",
    "excluded",
    "key_missing",
    "keys_refused",
    "breaker",
]
Random = Callable[[], float]

# larger tiers are sampled, so that a request's cost does not grow with the number of channels
_SCAN = 64
_SAMPLE = 32
# more replicas of one model are not searched for a prefix
_AFFINITY = 128


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """How channels of one priority are ordered.

    Attributes:
        affinity: follow a request's prefix hash instead, where it has one.
        load_bound: how many times its fair share of the requests in flight a channel may have
            and still keep its prefixes; a load up to `load_floor` is too much only for a channel
            that has fewer slots.
        explore: share of the requests that `latency` sends by weight, so that a channel that was
            once slow is measured again.
    """

    strategy: Strategy = "weighted"
    affinity: bool = True
    load_bound: float = 1.25
    load_floor: int = 4
    explore: float = 0.05


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks of a channel.

    Attributes:
        model: a name as `ChannelTable.resolve` gives it.
        group: the user's group; None: any channel will do.
        tags: the channel must carry all of them.
        needs: capabilities it must have.
        prefix: hash of the prompt's beginning, see `slipway.gateway.routing.prefix`.
        excluded: channels that already failed this request.
        excluded_keys: (channel id, key) that already failed this request.
        pinned: the only channel an administrator's key asked for.
    """

    model: str
    group: str | None = None
    tags: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    prefix: int | None = None
    excluded: Collection[int] = frozenset()
    excluded_keys: Collection[tuple[int, int]] = frozenset()
    pinned: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a channel is not eligible.

    Attributes:
        names: what it lacks, or who disabled it.
        standing: of the breaker that refuses; of the key that comes back first for
            `keys_refused`.
    """

    code: RefusalCode
    names: tuple[str, ...] = ()
    standing: Standing | None = None


def route(
    table: ChannelTable, ask: Ask, live: Live, rules: RoutingRules, now: float, random: Random
) -> Iterator[Target]:
    """The targets of a request in the order in which to try them: each eligible channel once.

    Lower tiers are not looked at until they are needed. Ask `Breakers.admit` right before sending,
    since a breaker may have opened, or its probes been taken, in between.

    Args:
        now: UTC seconds.
        random: gives numbers in [0, 1).
    """
    for tier in table.tiers(ask.model, ask.group):
        for channel in _ordered_tier(tier, ask, live, rules, now, random):
            key = _pick_key(channel, ask, live.breakers, now, random)
            yield Target(channel, channel.models[ask.model], ask.model, key)


def plan(channels: Sequence[Channel], model: str, draws: Iterable[float]) -> list[Target]:
    """The targets of a request by priority and weight alone, each enabled channel once.

    Args:
        model: a name as `resolve_model` gives it.
        draws: numbers in [0, 1), one per channel, and one more for each with several keys.
    """
    live = Live(Breakers(lambda: 0.0))
    numbers = iter(draws)
    rules = RoutingRules(affinity=False)
    return list(route(ChannelTable(channels), Ask(model), live, rules, 0.0, lambda: next(numbers)))


def refusal(channel: Channel, ask: Ask, live: Live, now: float) -> Refusal | None:
    """Why a channel that has the model may not take a request; None when it may."""
    if (by_settings := _refused_by_settings(channel, ask)) is not None:
        return by_settings
    if channel.id in ask.excluded:
        return Refusal("excluded")
    keys = channel.key_ids
    if channel.needs_key and not keys:
        return Refusal("key_missing")
    standing = live.breakers.standing(channel.id, ask.model, now)
    if not standing.admits:
        return Refusal("breaker", standing=standing)
    if keys and not usable_keys(channel, ask, live.breakers, now):
        standings = [live.breakers.key_standing(channel.id, key, now) for key in keys]
        return Refusal("keys_refused", standing=min(standings, key=lambda each: each.left_s))
    return None


def usable_keys(channel: Channel, ask: Ask, breakers: Breakers, now: float) -> list[int]:
    """A channel's keys that may be used now, but for those that already failed this request."""
    return [
        key
        for key in channel.key_ids
        if breakers.key_standing(channel.id, key, now).admits
        and (channel.id, key) not in ask.excluded_keys
    ]


def by_weight(channels: Sequence[Channel], random: Random) -> list[Channel]:
    """Channels in an order drawn by weight without replacement; weight 0 comes last.

    Each channel waits for an event that is as frequent as its weight; who is first has exactly
    its share of the weights.
    """
    times = [-math.log1p(-random()) / max(channel.weight, 1) for channel in channels]
    order = sorted(range(len(channels)), key=lambda n: (channels[n].weight <= 0, times[n]))
    return [channels[n] for n in order]


def _refused_by_settings(channel: Channel, ask: Ask) -> Refusal | None:
    if not channel.enabled:
        return Refusal("disabled", (channel.disabled_by,) if channel.disabled_by else ())
    if ask.pinned is not None and channel.id != ask.pinned:
        return Refusal("not_pinned", (str(ask.pinned),))
    if not serves(channel, ask.group):
        return Refusal("group", (str(ask.group),))
    if ask.tags and (missing := ask.tags - channel.tags):
        return Refusal("tag", tuple(sorted(missing)))
    known = channel.capabilities
    if ask.needs and known is not None and (missing := ask.needs - known):
        return Refusal("capability", tuple(sorted(missing)))
    return None


def _ordered_tier(
    tier: Tier, ask: Ask, live: Live, rules: RoutingRules, now: float, random: Random
) -> Iterator[Channel]:
    channels: Sequence[Channel] = tier.channels
    affine = rules.affinity and ask.prefix is not None and len(channels) <= _AFFINITY
    tried: set[int] = set()
    if len(channels) > _SCAN and not affine:
        sample = _sampled(tier, ask, live, now, random)
        tried = {channel.id for channel in sample}
        # a weighted sample is in weighted order as it was drawn
        yield from _by_strategy(sample, ask.model, live, rules, now, random)
    eligible = [c for c in channels if c.id not in tried and refusal(c, ask, live, now) is None]
    if affine:
        yield from _by_prefix(eligible, ask, live, rules, now)
        return
    drawn = by_weight(eligible, random)
    yield from _by_strategy(drawn, ask.model, live, rules, now, random)


def _sampled(tier: Tier, ask: Ask, live: Live, now: float, random: Random) -> list[Channel]:
    """Some eligible channels of a large tier, drawn by weight without replacement."""
    total = tier.marks[-1]
    drawn: dict[int, Channel] = {}
    for _ in range(_SAMPLE if total else 0):
        channel = tier.channels[bisect_right(tier.marks, int(random() * total))]
        if channel.id not in drawn and refusal(channel, ask, live, now) is None:
            drawn[channel.id] = channel
    return list(drawn.values())


def _by_strategy(
    drawn: list[Channel], model: str, live: Live, rules: RoutingRules, now: float, random: Random
) -> list[Channel]:
    """Order channels that come in weighted order, which decides between equals."""
    strategy = rules.strategy
    if strategy == "latency" and (len(drawn) < 2 or random() < rules.explore):
        strategy = "weighted"
    score: Callable[[Channel], float]
    loads = live.loads
    if strategy == "least_busy":

        def score(channel: Channel) -> float:
            return loads.pressure(channel, now)

    elif strategy == "latency":
        score = _latency_score(drawn, model, live, now)
    elif strategy == "cost":

        def score(channel: Channel) -> float:
            return live.prices.get((channel.id, model), math.inf)

    else:

        def score(channel: Channel) -> float:
            return 0.0

    return sorted(drawn, key=lambda c: (c.weight <= 0, loads.full(c, now), score(c)))


def _latency_score(
    channels: Sequence[Channel], model: str, live: Live, now: float
) -> Callable[[Channel], float]:
    """Expected wait: the average time to first token, grown by the requests already there.

    A channel of which nothing recent is known is taken to be as fast as the fastest, so it gets
    measured, yet not by everybody at once.
    """
    times = {c.id: live.latencies.ttft_s(c.id, model, now) for c in channels}
    best = min((ttft for ttft in times.values() if ttft is not None), default=1.0)

    def score(channel: Channel) -> float:
        ttft = times[channel.id]
        return (best if ttft is None else ttft) * (1.0 + live.loads.pressure(channel, now))

    return score


def _by_prefix(
    eligible: Sequence[Channel], ask: Ask, live: Live, rules: RoutingRules, now: float
) -> list[Channel]:
    assert ask.prefix is not None
    ordered = rendezvous(ask.prefix, eligible)
    weighty = [channel for channel in ordered if channel.weight > 0]
    last = [channel for channel in ordered if channel.weight <= 0]
    return bounded(weighty, live.loads, now, rules.load_bound, rules.load_floor) + last


def _pick_key(
    channel: Channel, ask: Ask, breakers: Breakers, now: float, random: Random
) -> int | None:
    keys = channel.key_ids
    if len(keys) > 1:
        keys = tuple(usable_keys(channel, ask, breakers, now)) or keys
    if len(keys) < 2:
        return keys[0] if keys else None
    if ask.prefix is not None:
        # an upstream's prompt cache belongs to the account behind the key
        prefix = ask.prefix
        return max(keys, key=lambda key: mixed(prefix ^ mixed(key)))
    return keys[int(random() * len(keys))]
