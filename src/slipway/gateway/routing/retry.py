"""What a failure means, and whether a request may be sent again.

`judge` is the table; `RetryBudget` keeps all retries of a process below a share of its requests,
which is what prevents a storm; `Attempts` is one request's way from channel to channel. Nothing is
ever sent again after the first byte of an answer has gone to the client.

    failure                                   breaker         remedy
    cannot connect, hung up, garbage, silent  failure         other channel
    429; 503 with Retry-After; 529            rate limited    other channel, or wait for this one
    401, 402, `insufficient_quota`            key refused     other key, then other channel
    403                                       key suspect     other key, then other channel
    404 `model_not_found`                     failure         other channel
    404 otherwise, 405, 425, 501              none            other channel
    prompt too long, content refused          none            fallback model
    other 4xx                                 none            none: it is the caller's error
    3xx, 408, other 5xx                       failure         other channel
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from slipway.gateway.routing.breaker import Outcome
from slipway.gateway.routing.variants import FallbackCause

FailureKind = Literal["connect", "reset", "timeout", "bad_answer", "status", "client_left"]
Remedy = Literal["none", "other_channel", "other_key", "fallback_model"]

_KEY_REFUSED = frozenset(
    {
        "account_deactivated",
        "authentication_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_authentication",
    }
)
_KEY_SUSPECT = frozenset({"permission_error", "forbidden", "access_terminated"})
_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTENT = frozenset({"content_filter", "content_policy_violation", "data_inspection_failed"})


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request to a channel failed.

    Attributes:
        status: HTTP status, for the kind `status`.
        codes: the upstream's `error.code` and `error.type`, where it sent them. Messages are not
            judged, since they may quote what the user wrote.
        retry_after_s: see `retry_after`.
        first_byte: something of the answer has been sent to the client.
    """

    kind: FailureKind
    status: int = 0
    codes: frozenset[str] = frozenset()
    retry_after_s: float | None = None
    first_byte: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the breaker, and what may help the request.

    Attributes:
        cause: of the fallback, for the remedy `fallback_model`.
    """

    outcome: Outcome
    remedy: Remedy
    cause: FallbackCause = "failed"


_STATUSES: dict[int, Verdict] = {
    401: Verdict("key_refused", "other_key"),
    402: Verdict("key_refused", "other_key"),
    403: Verdict("key_suspect", "other_key"),
    404: Verdict("neutral", "other_channel"),
    405: Verdict("neutral", "other_channel"),
    408: Verdict("failure", "other_channel"),
    413: Verdict("neutral", "fallback_model", "context"),
    425: Verdict("neutral", "other_channel"),
    429: Verdict("rate_limited", "other_channel"),
    501: Verdict("neutral", "other_channel"),
    529: Verdict("rate_limited", "other_channel"),
}
_CODES: tuple[tuple[frozenset[str], Verdict], ...] = (
    (_KEY_REFUSED, Verdict("key_refused", "other_key")),
    (_KEY_SUSPECT, Verdict("key_suspect", "other_key")),
    (_TOO_LONG, Verdict("neutral", "fallback_model", "context")),
    (_CONTENT, Verdict("neutral", "fallback_model", "content")),
)


def judge(failure: Failure) -> Verdict:
    """The table above."""
    verdict = _judged(failure)
    return Verdict(verdict.outcome, "none") if failure.first_byte else verdict


def _judged(failure: Failure) -> Verdict:
    if failure.kind == "client_left":
        return Verdict("neutral", "none")
    if failure.kind != "status":
        return Verdict("failure", "other_channel")
    status = failure.status
    if status < 500:
        for codes, verdict in _CODES:
            if codes & failure.codes:
                return verdict
    if status == 404 and "model_not_found" in failure.codes:
        return Verdict("failure", "other_channel")
    if status == 503 and failure.retry_after_s is not None:
        return Verdict("rate_limited", "other_channel")
    known = _STATUSES.get(status)
    if known is not None:
        return known
    return (
        Verdict("neutral", "none") if 400 <= status < 500 else Verdict("failure", "other_channel")
    )


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a Retry-After header says, be it a number or a date; None if it says none.

    Args:
        now: UTC seconds.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            # a date without a zone (`-0000`) is in UTC, not in this machine's zone
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class RetryBudget:
    """Retries of a process, as a token bucket that requests fill.

    At any time: retries <= reserve + share * requests + per_s * seconds. The trickle is there for
    a gateway with few requests, where a share of them is nothing; six a minute are no storm.

    Args:
        share: retries that each request pays for.
        reserve: retries that there are at the start.
        per_s: retries that time adds, while there are fewer than `reserve`.
        most: retries that can be saved up.
    """

    def __init__(
        self, share: float = 0.2, reserve: float = 10.0, per_s: float = 0.1, most: float = 100.0
    ) -> None:
        self._share, self._reserve, self._per_s = share, reserve, per_s
        self._most = max(most, reserve)
        self._left = reserve
        self._at: float | None = None

    def request(self) -> None:
        """A request has come."""
        self._left = min(self._most, self._left + self._share)

    def take(self, now: float) -> bool:
        """Spend a retry if there is one.

        Args:
            now: seconds of any clock.
        """
        since = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        if self._left < self._reserve:
            self._left = min(self._reserve, self._left + since * self._per_s)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a request is tried. Times are seconds.

    Attributes:
        attempts: sends in all, the first one and those to fallback models included.
        base_s: the n-th retry waits a random time up to `base_s * 2**(n-1)`, at most `cap_s`.
        deadline_s: nothing is sent later than this after the request came.
        wait_s: longest wait for a channel that is paused, when no other one is left.
    """

    attempts: int = 4
    base_s: float = 0.05
    cap_s: float = 2.0
    deadline_s: float = 60.0
    wait_s: float = 10.0

    def delay_s(self, retry: int, random: Callable[[], float]) -> float:
        """The wait before the n-th retry (from 1), by full jitter."""
        return random() * min(self.cap_s, self.base_s * 2.0 ** (retry - 1))
