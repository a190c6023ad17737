"""One request's way from channel to channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from slipway.gateway.routing.breaker import Standing
from slipway.gateway.routing.breakers import Permit
from slipway.gateway.routing.channel import Target
from slipway.gateway.routing.live import Live
from slipway.gateway.routing.retry import Failure, RetryBudget, RetryPolicy, Verdict, judge
from slipway.gateway.routing.strategy import Ask, RoutingRules, refusal, route
from slipway.gateway.routing.table import ChannelTable
from slipway.gateway.routing.variants import FallbackCause, Fallbacks

GaveUp = Literal["not_retryable", "first_byte", "attempts", "deadline", "budget", "no_channel"]


@dataclass(frozen=True, slots=True)
class Sending:
    """Send to this target now, and report on the permit."""

    target: Target
    permit: Permit


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask again after so many seconds: a back-off, or a channel that comes back soon."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Router:
    """All that the requests of a process share for routing.

    Attributes:
        random: gives numbers in [0, 1).
    """

    table: ChannelTable
    live: Live
    budget: RetryBudget
    random: Callable[[], float]
    rules: RoutingRules = field(default_factory=RoutingRules)
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    fallbacks: Fallbacks = field(default_factory=Fallbacks)


class Attempts:
    """Where to send a request next, and what has become of it so far.

        attempts = Attempts(router, Ask(model), now)
        try:
            while (step := attempts.next(now)) is not None:
                if isinstance(step, Pause):
                    sleep(step.delay_s)
                elif send(step.target) answers:
                    attempts.answered(ttft_s, now)  # at the first byte
                    pass the answer on; if it breaks: attempts.failed(failure, now)
                    break
                else:
                    attempts.failed(failure, now)
            else: answer with what attempts.gave_up and attempts.last say
        finally:
            attempts.close()

    Args:
        now: when the request came, UTC seconds, as in all calls.
    """

    def __init__(self, router: Router, ask: Ask, now: float) -> None:
        self._router = router
        self._first = ask
        self._asks = [ask]
        self._fell_back = False
        self._until = now + router.policy.deadline_s
        self._resume_at = now
        self._waits_since: float | None = None
        self._pauses = 0
        # by model too: a channel that failed with one may do with another
        self._excluded: set[tuple[int, str]] = set()
        self._limited: set[tuple[int, str]] = set()
        self._excluded_keys: set[tuple[int, int]] = set()
        self._sending: Sending | None = None
        self._blamed_500 = False
        self.sent = 0
        self.gave_up: GaveUp | None = None
        self.last: Failure | None = None
        router.budget.request()

    def next(self, now: float) -> Sending | Pause | None:
        """The next step; None when there is none, then `gave_up` says why."""
        if self.gave_up is not None:
            return None
        if now < self._resume_at:
            return Pause(self._resume_at - now)
        if now > self._until:
            self.gave_up = "deadline"
            return None
        found = self._admitted(self._asks, now)
        if found is None and self._add_fallbacks("failed"):
            found = self._admitted(self._asks, now)
        return self._wait(now) if found is None else self._send(found, now)

    def answered(self, ttft_s: float, now: float) -> None:
        """The answer's first byte came. A break after it is still to be told to `failed`."""
        if self._sending is not None:
            permit = self._sending.permit
            self._router.live.breakers.first_byte(permit, ttft_s, now)
            self._router.live.latencies.observe(permit.channel_id, permit.model, ttft_s, now)

    def failed(self, failure: Failure, now: float) -> Verdict:
        """What was sent last failed; `next` says whether it is sent again."""
        if self._sending is None:
            raise RuntimeError("nothing was sent, so nothing can have failed")
        verdict, outcome = judge(failure), judge(failure).outcome
        self.last = failure
        if failure.kind == "status" and failure.status == 500:
            # the same from a second channel speaks against the request, not against the channels
            outcome = "neutral" if self._blamed_500 else outcome
            self._blamed_500 = True
        permit = self._sending.permit
        self._router.live.breakers.report(permit, outcome, now, failure.retry_after_s)
        self._remember(self._sending.target, verdict)
        self.close()
        self.gave_up = self._final(failure, verdict)
        if self.gave_up is None:
            self._resume_at = now + self._router.policy.delay_s(self.sent, self._router.random)
        return verdict

    def close(self) -> None:
        """The request is over, or the client left. May be called again."""
        if self._sending is not None:
            self._router.live.breakers.release(self._sending.permit)
            self._router.live.loads.end(self._sending.permit.channel_id)
            self._sending = None

    def come_back_s(self, now: float) -> float | None:
        """Seconds until a channel of the model comes back, for the client's Retry-After.

        None when none does by itself.
        """
        standings = self._refused_by_breaker(self._first, now)
        return min((standing.left_s for standing in standings), default=None)

    def all_limited(self, now: float) -> bool:
        """Whether all channels are away because they were asked too much, and not broken."""
        standings = list(self._refused_by_breaker(Ask(self._first.model, self._first.group), now))
        return bool(standings) and all(s.reason == "rate_limited" for s in standings)

    def _final(self, failure: Failure, verdict: Verdict) -> GaveUp | None:
        if failure.first_byte:
            return "first_byte"
        if verdict.remedy == "none":
            return "not_retryable"
        if verdict.remedy == "fallback_model" and not self._add_fallbacks(verdict.cause):
            return "not_retryable"
        return "attempts" if self.sent >= self._router.policy.attempts else None

    def _admitted(self, asks: Iterable[Ask], now: float) -> Sending | None:
        """The first target that lets the request in; one that limited it only if no other does."""
        router = self._router
        for shunned in (self._excluded | self._limited, self._excluded):
            for ask in asks:
                own = self._narrowed(ask, shunned)
                for target in route(
                    router.table, own, router.live, router.rules, now, router.random
                ):
                    permit = router.live.breakers.admit(target, now)
                    if permit is not None:
                        return Sending(target, permit)
            if not self._limited:
                break
        return None

    def _narrowed(self, ask: Ask, shunned: Iterable[tuple[int, str]]) -> Ask:
        if not shunned and not self._excluded_keys:
            return ask
        excluded = {channel for channel, model in shunned if model == ask.model}
        return replace(ask, excluded=excluded, excluded_keys=self._excluded_keys)

    def _send(self, found: Sending, now: float) -> Sending | None:
        if self.sent and not self._router.budget.take(now):
            self._router.live.breakers.release(found.permit)
            self.gave_up = "budget"
            return None
        self.sent += 1
        self._waits_since = None
        self._sending = found
        self._router.live.loads.begin(found.permit.channel_id)
        return found

    def _remember(self, target: Target, verdict: Verdict) -> None:
        channel, place = target.channel, (target.channel.id, target.model)
        by_key = verdict.remedy == "other_key" or (
            verdict.outcome == "rate_limited" and len(channel.key_ids) > 1
        )
        if by_key and target.key is not None:
            self._excluded_keys.add((channel.id, target.key))
        elif verdict.outcome == "rate_limited":
            # its breaker keeps it away for as long as it must; then it may be asked again
            self._limited.add(place)
        else:
            self._excluded.add(place)

    def _add_fallbacks(self, cause: FallbackCause) -> bool:
        """Take in the fallback models, once; those for a prompt's fault take the model's place."""
        if self._fell_back:
            return cause != "failed"
        self._fell_back = True
        names = self._router.fallbacks.of(self._first.model, cause)
        kept = [self._first] if cause == "failed" else []
        self._asks = kept + [replace(self._first, model=name) for name in names]
        return bool(names)

    def _wait(self, now: float) -> Pause | None:
        """Nothing can be sent to now: wait for a channel that is limited or being probed.

        One that is broken is not waited for: whoever asks is told so at once.
        """
        asks = [self._narrowed(ask, self._excluded) for ask in self._asks]
        standings = [s for ask in asks for s in self._refused_by_breaker(ask, now)]
        lefts = [s.left_s for s in standings if s.state != "open" or s.reason == "rate_limited"]
        if not lefts:
            self.gave_up = "no_channel"
            return None
        self._pauses += 1
        if self._waits_since is None:
            self._waits_since = now
        # a little later than the moment, so that those who wait do not all come at it
        policy = self._router.policy
        delay = min(lefts) + max(0.02, policy.delay_s(self._pauses, self._router.random))
        if now + delay > min(self._until, self._waits_since + policy.wait_s):
            self.gave_up = "no_channel"
            return None
        self._resume_at = now + delay
        return Pause(delay)

    def _refused_by_breaker(self, ask: Ask, now: float) -> Iterator[Standing]:
        for channel in self._router.table.of_model(ask.model):
            found = refusal(channel, ask, self._router.live, now)
            if found is None:
                # it was admissible, and another request took its last probe
                yield Standing("half_open", False)
            elif found.standing is not None:
                yield found.standing
