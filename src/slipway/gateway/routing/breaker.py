"""One circuit breaker: closed, open or half-open, moved only by what requests report.

    state      admits                          leaves it when
    closed     everything                      failures in a row, or their rate in the window, or a
                                               rate limit: -> open
    open       nothing                         its time is over: -> half-open
    half_open  `probes` requests at a time     `close_after` of them succeed: -> closed;
                                               one fails: -> open, for longer

Times are UTC seconds as a float and come from the caller, because the state is shared between
machines; so does randomness. What a breaker shares is a small dict (`export`, `merge`): the last
change wins. Half-open is not shared, it follows from `until` and the clock; so each process sends
its own probes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["closed", "open", "half_open"]
Reason = Literal["failures", "error_rate", "rate_limited", "key_refused"]
Outcome = Literal["ok", "slow", "failure", "rate_limited", "key_refused", "key_suspect", "neutral"]

REASONS: tuple[Reason, ...] = ("failures", "error_rate", "rate_limited", "key_refused")
MAX_CLOCK_SKEW_S = 60.0
_BUCKETS = 10
_MAX_TRIPS = 32


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens and for how long. Times are seconds.

    Attributes:
        consecutive: it opens after so many failures in a row.
        error_rate: or when so large a share of the window's requests failed, of at least
            `min_volume`.
        open_s: how long it stays open the first time; doubled each time it opens again, up to
            `open_cap_s`, until it has stayed closed for `window_s`.
        jitter: up to this share of an open time is taken off at random, so that processes and
            channels do not come back together.
        probes: requests let through at a time when half-open.
        probe_timeout_s: a probe that reported nothing for so long holds no place any more.
        close_after: successful probes that close it.
        cool_s: open time after a rate limit without Retry-After; doubled like `open_s`, up to
            `cool_cap_s`.
        retry_after_cap_s: a longer Retry-After is cut to this.
        slow_s: a first byte later than this counts as a failure; None: however late, it is none.
    """

    consecutive: int = 5
    error_rate: float = 0.5
    min_volume: int = 20
    window_s: float = 60.0
    open_s: float = 5.0
    open_cap_s: float = 300.0
    jitter: float = 0.2
    probes: int = 1
    probe_timeout_s: float = 60.0
    close_after: int = 2
    cool_s: float = 1.0
    cool_cap_s: float = 60.0
    retry_after_cap_s: float = 3600.0
    slow_s: float | None = None

    @property
    def longest_s(self) -> float:
        """The longest time a breaker can stay open."""
        return max(self.open_cap_s, self.cool_cap_s, self.retry_after_cap_s)


# `key_refused` opens at once, a mere `key_suspect` (a 403 may be about one request) after three in
# a row; it is tried again after a minute, then ever more rarely, since a proxy's stray 401 must
# not end a good key for ever
KEY_RULES = BreakerRules(consecutive=3, open_s=60.0, open_cap_s=3600.0, close_after=1)


@dataclass(slots=True)
class Seat:
    """A request's admission at one breaker.

    Attributes:
        epoch: the breaker's when the request began; reports of an older epoch change nothing.
        probe: when it began, if it is a half-open breaker's probe.
        counted: it has been counted as a success, which a later failure takes back.
        row: failures in a row that this success ended.
    """

    epoch: int = 0
    probe: float | None = None
    counted: bool = False
    row: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a breaker stands at a moment.

    Attributes:
        admits: a request would be let through.
        reason: why it is not closed.
        left_s: seconds until probes are let through; 0 unless it is open.
        trips: how often it opened without staying closed in between.
    """

    state: State
    admits: bool
    reason: Reason | None = None
    left_s: float = 0.0
    trips: int = 0


HEALTHY = Standing("closed", True)


class Breaker:
    """One breaker. Not for several threads at once.

    Args:
        random: gives numbers in [0, 1).
    """

    __slots__ = (
        "_failures",
        "_passed",
        "_probes",
        "_random",
        "_rules",
        "_window",
        "at",
        "epoch",
        "is_open",
        "reason",
        "trips",
        "until",
    )

    def __init__(self, rules: BreakerRules, random: Callable[[], float]) -> None:
        self._rules = rules
        self._random = random
        self._window = _Window(rules.window_s)
        self._failures = 0
        self._passed = 0
        self._probes: list[float] = []
        self.epoch = 0
        self.at = 0.0
        self.is_open = False
        self.until = 0.0
        self.reason: Reason | None = None
        self.trips = 0

    def standing(self, now: float) -> Standing:
        """How it stands; changes nothing."""
        if not self.is_open:
            if self.trips == 0 or now - self.at >= self._rules.window_s:
                return HEALTHY
            return Standing("closed", True, trips=self.trips)
        # a clock that was set back must not keep a channel away for longer than the rules say
        left = min(self.until - now, self._rules.longest_s)
        if left > 0:
            return Standing("open", False, self.reason, left, self.trips)
        oldest = now - self._rules.probe_timeout_s
        running = sum(1 for began in self._probes if began > oldest)
        return Standing("half_open", running < self._rules.probes, self.reason, 0.0, self.trips)

    def admit(self, now: float) -> Seat | None:
        """Let a request through, or None. Every seat is reported on, or released."""
        standing = self.standing(now)
        if not standing.admits:
            return None
        if standing.state == "closed":
            return Seat(self.epoch)
        oldest = now - self._rules.probe_timeout_s
        self._probes = [began for began in self._probes if began > oldest]
        self._probes.append(now)
        return Seat(self.epoch, probe=now)

    def report(
        self, seat: Seat, outcome: Outcome, now: float, retry_after_s: float | None = None
    ) -> bool:
        """Take in what became of a request; a worse outcome may follow an earlier `ok`.

        Returns:
            whether the shared state changed.
        """
        if seat.epoch != self.epoch:
            return self._late_limit(outcome, now, retry_after_s)
        if seat.probe is not None:
            if seat.probe in self._probes:
                self._probes.remove(seat.probe)
            seat.probe = None
        if outcome == "neutral":
            return False
        if outcome == "ok":
            return self._succeeded(seat, now)
        if outcome == "rate_limited":
            return self._limited(now, retry_after_s)
        return self._failed(seat, outcome, now)

    def release(self, seat: Seat) -> None:
        """Give a seat back without a verdict, as when the client left."""
        if seat.epoch == self.epoch and seat.probe in self._probes:
            self._probes.remove(seat.probe)
        seat.probe = None

    def close(self, now: float) -> None:
        """Forget all failures, as an administrator may wish."""
        self.trips = 0
        self._turn(now, is_open=False, until=now, reason=None)

    def idle(self, now: float) -> bool:
        """Whether nothing would be lost if this breaker were made anew."""
        return (
            not self.is_open
            and now - self.at > self._rules.longest_s + MAX_CLOCK_SKEW_S
            and self._window.totals(now) == (0, 0)
        )

    def export(self) -> dict[str, Any]:
        """What other processes need to know, as JSON's types."""
        return {
            "at": self.at,
            "open": self.is_open,
            "until": self.until,
            "reason": self.reason,
            "trips": self.trips,
        }

    def merge(self, other: Mapping[str, Any], now: float) -> bool:
        """Take over another process's state if it changed later than this one.

        Between changes of the same moment the open one, then the longer one wins, so the order of
        merging does not matter. A state from the future (by more than a minute) is a wrong clock
        and is ignored.

        Returns:
            whether it was taken over.

        Raises:
            ValueError: not what `export` gives.
        """
        theirs = _checked(other)
        if theirs[0] > now + MAX_CLOCK_SKEW_S:
            return False
        mine = (self.at, self.is_open, self.until, self.trips, self.reason or "")
        if theirs <= mine:
            return False
        at, is_open, until, trips, reason = theirs
        self.trips = trips
        self._turn(at, is_open=is_open, until=until, reason=_REASON_OF.get(reason))
        return True

    def _turn(self, now: float, *, is_open: bool, until: float, reason: Reason | None) -> None:
        self.at, self.is_open, self.until, self.reason = now, is_open, until, reason
        self.epoch += 1
        self._failures = self._passed = 0
        self._probes = []
        self._window = _Window(self._rules.window_s)

    def _succeeded(self, seat: Seat, now: float) -> bool:
        if not seat.counted:
            seat.counted, seat.row = True, self._failures
            self._window.add(now, ok=1)
        self._failures = 0
        if not self.is_open:
            return False
        self._passed += 1
        if self._passed < self._rules.close_after:
            return False
        self._turn(now, is_open=False, until=now, reason=None)
        return True

    def _failed(self, seat: Seat, outcome: Outcome, now: float) -> bool:
        self._window.add(now, ok=-1 if seat.counted else 0, bad=1)
        if seat.counted:
            seat.counted = False
            self._failures = max(self._failures, seat.row)
        self._failures += 1
        reason: Reason | None = None
        if outcome == "key_refused":
            reason = "key_refused"
        elif self.is_open or self._failures >= self._rules.consecutive:
            reason = "key_refused" if outcome == "key_suspect" else "failures"
        else:
            ok, bad = self._window.totals(now)
            if ok + bad >= self._rules.min_volume and bad >= self._rules.error_rate * (ok + bad):
                reason = "error_rate"
        if reason is None:
            return False
        self._open(now, reason, self._backed_off(now, self._rules.open_s, self._rules.open_cap_s))
        return True

    def _limited(self, now: float, retry_after_s: float | None) -> bool:
        grown = self._backed_off(now, self._rules.cool_s, self._rules.cool_cap_s)
        if retry_after_s is None or retry_after_s <= 0:
            self._open(now, "rate_limited", grown)
        else:
            # being told when to come back is no sign of being broken: the next open time is as
            # long as it would have been
            length = min(retry_after_s, self._rules.retry_after_cap_s)
            self._turn(now, is_open=True, until=now + length, reason="rate_limited")
        return True

    def _late_limit(self, outcome: Outcome, now: float, retry_after_s: float | None) -> bool:
        """A request of before the change was told to come back later than we knew."""
        if outcome != "rate_limited" or retry_after_s is None or not self.is_open:
            return False
        until = now + min(retry_after_s, self._rules.retry_after_cap_s)
        if until <= self.until:
            return False
        self.at, self.until = now, until
        return True

    def _backed_off(self, now: float, base_s: float, cap_s: float) -> float:
        if not self.is_open and now - self.at >= self._rules.window_s:
            self.trips = 0
        length = min(cap_s, base_s * 2.0**self.trips)
        return length * (1.0 - self._rules.jitter * self._random())

    def _open(self, now: float, reason: Reason, length_s: float) -> None:
        self.trips = min(self.trips + 1, _MAX_TRIPS)
        self._turn(now, is_open=True, until=now + length_s, reason=reason)


def later(state: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Which of two shared states of one breaker wins; what a shared store must keep.

    Raises:
        ValueError: one is not what `Breaker.export` gives.
    """
    return other if _checked(other) > _checked(state) else state


class _Window:
    """Counts of the last seconds in ten buckets, so that memory does not grow with traffic."""

    __slots__ = ("_buckets", "_width")

    def __init__(self, length_s: float) -> None:
        self._width = length_s / _BUCKETS
        self._buckets: deque[list[int]] = deque(maxlen=_BUCKETS)

    def add(self, now: float, ok: int = 0, bad: int = 0) -> None:
        index = int(now // self._width)
        if not self._buckets or self._buckets[-1][0] < index:
            self._buckets.append([index, 0, 0])
        bucket = self._buckets[-1]
        bucket[1] += ok
        bucket[2] += bad

    def totals(self, now: float) -> tuple[int, int]:
        oldest = int(now // self._width) - _BUCKETS
        live = [bucket for bucket in self._buckets if bucket[0] > oldest]
        return max(0, sum(b[1] for b in live)), sum(b[2] for b in live)


_REASON_OF: dict[str, Reason] = {reason: reason for reason in REASONS}


def _checked(value: Mapping[str, Any]) -> tuple[float, bool, float, int, str]:
    """A shared state as a tuple in the order in which one wins over another."""
    try:
        at, until = float(value["at"]), float(value["until"])
        is_open, trips, reason = value["open"], value["trips"], value["reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a breaker's shared state lacks or spoils {error}") from error
    if not isinstance(is_open, bool) or not isinstance(trips, int):
        raise ValueError("a breaker's shared state: `open` is no boolean or `trips` no integer")
    if reason is not None and reason not in _REASON_OF:
        raise ValueError(f"a breaker's shared state: `reason` is {reason!r}")
    if not (at == at and until == until) or until - at > 1e7:
        raise ValueError("a breaker's shared state: `at` or `until` is no time")
    return at, is_open, until, min(max(trips, 0), _MAX_TRIPS), reason or ""
