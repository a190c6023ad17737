"""The breakers of all channels and keys of a gateway process.

A breaker belongs to a channel *and* a model, because one overloaded model says nothing about the
channel's others. Each key of a channel has one too: a refused key takes itself out, not its
channel, and where a channel has several keys a rate limit is the key's.

Nothing here knows of `Channel.enabled`: what a human disabled is refused before any breaker is
asked, so no success, time or other process brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from slipway.gateway.routing.breaker import (
    HEALTHY,
    KEY_RULES,
    Breaker,
    BreakerRules,
    Outcome,
    Seat,
    Standing,
)
from slipway.gateway.routing.channel import Target

# a model at a channel, or a channel's key
Place = tuple[int, str | int]


@dataclass(slots=True)
class Permit:
    """Leave to send one request to one channel: report on it or release it, whatever happens.

    Attributes:
        lone_key: the channel has no other key, so a rate limit is the channel's.
    """

    channel_id: int
    model: str
    key: int | None
    lone_key: bool
    seat: Seat
    key_seat: Seat


class Breakers:
    """All breakers of a process; they are made when something first goes wrong.

    Args:
        random: gives numbers in [0, 1).
    """

    def __init__(
        self,
        random: Callable[[], float],
        rules: BreakerRules | None = None,
        key_rules: BreakerRules = KEY_RULES,
    ) -> None:
        self._random = random
        self._rules = rules or BreakerRules()
        self._key_rules = key_rules
        self._known: dict[Place, Breaker] = {}
        self._changed: set[Place] = set()

    def standing(self, channel_id: int, model: str, now: float) -> Standing:
        """How a channel stands for a model."""
        breaker = self._known.get((channel_id, model))
        return HEALTHY if breaker is None else breaker.standing(now)

    def key_standing(self, channel_id: int, key: int, now: float) -> Standing:
        """How a channel's key stands."""
        breaker = self._known.get((channel_id, key))
        return HEALTHY if breaker is None else breaker.standing(now)

    def admit(self, target: Target, now: float) -> Permit | None:
        """Ask leave to send, right before sending; None when another request was quicker."""
        channel = target.channel
        seat = self._admit((channel.id, target.model), now)
        if seat is None:
            return None
        key_seat: Seat | None = Seat()
        if target.key is not None:
            key_seat = self._admit((channel.id, target.key), now)
        if key_seat is None:
            self._release((channel.id, target.model), seat)
            return None
        lone = len(channel.key_ids) < 2
        return Permit(channel.id, target.model, target.key, lone, seat, key_seat)

    def first_byte(self, permit: Permit, ttft_s: float, now: float) -> None:
        """Report that an answer has begun: a success, unless that is called too slow."""
        slow = self._rules.slow_s is not None and ttft_s > self._rules.slow_s
        self.report(permit, "slow" if slow else "ok", now)

    def report(
        self, permit: Permit, outcome: Outcome, now: float, retry_after_s: float | None = None
    ) -> None:
        """Take in what became of a request.

        Report `ok` at the answer's first byte (see `first_byte`), so that a probe need not wait
        for its end; a stream that breaks later is reported as `failure` on top and both count as
        one request.

        Args:
            outcome: see `slipway.gateway.routing.retry.judge`. `key_refused` and `key_suspect`
                concern the key alone.
            retry_after_s: the upstream's Retry-After, where it sent one.
        """
        of_channel, of_key = _parted(outcome, has_key=permit.key is not None, lone=permit.lone_key)
        self._report((permit.channel_id, permit.model), permit.seat, of_channel, now, retry_after_s)
        if permit.key is not None:
            place = (permit.channel_id, permit.key)
            self._report(place, permit.key_seat, of_key, now, retry_after_s)

    def release(self, permit: Permit) -> None:
        """Give a permit back without a verdict, as when the client left."""
        self._release((permit.channel_id, permit.model), permit.seat)
        if permit.key is not None:
            self._release((permit.channel_id, permit.key), permit.key_seat)

    def reset(self, channel_id: int, now: float) -> None:
        """Close all breakers of a channel, as when an administrator repaired it."""
        for place, breaker in self._known.items():
            if place[0] == channel_id:
                breaker.close(now)
                self._changed.add(place)

    def changes(self) -> dict[str, dict[str, Any]]:
        """The states changed here since the last call, for a shared store: name -> state."""
        changed, self._changed = self._changed, set()
        return {_name(p): self._known[p].export() for p in changed if p in self._known}

    def export(self, name: str) -> dict[str, Any] | None:
        """The state of one breaker by its name in `changes`; None when nothing went wrong there."""
        breaker = self._known.get(_parsed(name))
        return None if breaker is None else breaker.export()

    def load(self, states: Mapping[str, Mapping[str, Any]], now: float) -> None:
        """Take over what other processes shared; of each state the last change wins.

        Raises:
            ValueError: a name or state that `changes` does not give; it says which.
        """
        for name, state in states.items():
            place = _parsed(name)
            breaker = self._known.get(place) or self._made(place)
            try:
                taken = breaker.merge(state, now)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if taken:
                self._known[place] = breaker

    def prune(self, now: float) -> None:
        """Drop breakers that have long been closed and quiet. Call it every few minutes."""
        self._known = {place: b for place, b in self._known.items() if not b.idle(now)}

    def _made(self, place: Place) -> Breaker:
        rules = self._key_rules if isinstance(place[1], int) else self._rules
        return Breaker(rules, self._random)

    def _admit(self, place: Place, now: float) -> Seat | None:
        breaker = self._known.get(place)
        return Seat() if breaker is None else breaker.admit(now)

    def _release(self, place: Place, seat: Seat) -> None:
        if (breaker := self._known.get(place)) is not None:
            breaker.release(seat)

    def _report(
        self, place: Place, seat: Seat, outcome: Outcome, now: float, retry_after_s: float | None
    ) -> None:
        breaker = self._known.get(place)
        if breaker is None:
            if outcome in ("ok", "neutral"):
                return
            breaker = self._known[place] = self._made(place)
        if breaker.report(seat, outcome, now, retry_after_s):
            self._changed.add(place)


def _parted(outcome: Outcome, *, has_key: bool, lone: bool) -> tuple[Outcome, Outcome]:
    """What an outcome says of the channel, and what of the key used there."""
    if outcome in ("ok", "slow"):
        return outcome, "ok"
    if outcome in ("key_refused", "key_suspect"):
        # a channel without a key of its own that refuses one is set up wrongly
        return ("neutral" if has_key else "failure"), outcome
    if outcome == "rate_limited" and has_key and not lone:
        return "neutral", outcome
    return outcome, "neutral"


def _name(place: Place) -> str:
    channel_id, rest = place
    return f"{'key' if isinstance(rest, int) else 'model'}/{channel_id}/{rest}"


def _parsed(name: str) -> Place:
    kind, _, rest = name.partition("/")
    channel_id, _, own = rest.partition("/")
    try:
        if kind == "key":
            return int(channel_id), int(own)
        if kind == "model" and own:
            return int(channel_id), own
    except ValueError:
        pass
    raise ValueError(f"{name!r} names no breaker (`model/CHANNEL/MODEL` or `key/CHANNEL/KEY`)")
