from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slipway.gateway.routing.breaker import Breaker, BreakerRules, Outcome, Seat

RULES = BreakerRules(jitter=0.0)


def breaker(rules: BreakerRules = RULES, jitter: float = 0.0) -> Breaker:
    return Breaker(rules, lambda: jitter)


def send(
    under_test: Breaker, outcome: Outcome, now: float, retry_after_s: float | None = None
) -> None:
    seat = under_test.admit(now)
    assert seat is not None
    under_test.report(seat, outcome, now, retry_after_s)


def opened(now: float = 0.0) -> Breaker:
    made = breaker()
    for _ in range(RULES.consecutive):
        send(made, "failure", now)
    return made


def test_failures_in_a_row_open_it_and_a_success_between_does_not_let_them_add_up() -> None:
    made = breaker()
    for outcome in ("failure",) * 4 + ("ok",) + ("failure",) * 4:
        send(made, outcome, 0.0)  # type: ignore[arg-type]
    assert made.standing(0.0).state == "closed"
    send(made, "failure", 0.0)
    standing = made.standing(0.0)
    assert (standing.state, standing.reason, standing.left_s) == ("open", "failures", 5.0)
    assert made.admit(4.9) is None


def test_a_high_rate_of_errors_opens_it_only_from_the_least_volume_on() -> None:
    made = breaker()
    for n in range(19):
        send(made, "ok" if n % 2 else "failure", n)
        assert made.standing(n).state == "closed"
    send(made, "failure", 19)
    assert made.standing(19).reason == "error_rate"


def test_failures_that_left_the_window_count_no_more() -> None:
    made = breaker()
    for n in range(9):
        send(made, "ok" if n % 2 else "failure", 0.0)
    for n in range(19):
        send(made, "ok" if n % 2 else "failure", 70.0)
    assert made.standing(70.0).state == "closed"


def test_half_open_lets_a_bounded_number_of_probes_through_and_closes_after_two_good_ones() -> None:
    made = opened()
    probe = made.admit(5.0)
    assert probe is not None and made.admit(5.0) is None
    assert made.standing(5.0).state == "half_open" and not made.standing(5.0).admits
    made.report(probe, "ok", 6.0)
    assert made.standing(6.0).state == "half_open"
    send(made, "ok", 6.0)
    assert made.standing(6.0).state == "closed"


def test_the_open_time_doubles_up_to_the_cap_and_starts_anew_after_a_steady_time() -> None:
    made, now, lengths = opened(), 0.0, []
    for _ in range(8):
        lengths.append(made.standing(now).left_s)
        now += lengths[-1]
        send(made, "failure", now)
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300]
    now += 300
    send(made, "ok", now)
    send(made, "ok", now)
    for _ in range(5):
        send(made, "failure", now + 1)
    assert made.standing(now + 1).left_s == 300
    now += 301
    send(made, "ok", now)
    send(made, "ok", now)
    for _ in range(5):
        send(made, "failure", now + RULES.window_s)
    assert made.standing(now + RULES.window_s).left_s == 5


def test_jitter_only_shortens_the_open_time() -> None:
    made = breaker(BreakerRules(jitter=0.2), jitter=0.5)
    for _ in range(5):
        send(made, "failure", 0.0)
    assert made.standing(0.0).left_s == pytest.approx(4.5)


def test_retry_after_is_obeyed_to_the_letter_and_does_not_count_as_broken() -> None:
    made = breaker()
    send(made, "rate_limited", 0.0, 17.0)
    standing = made.standing(0.0)
    assert (standing.reason, standing.left_s, standing.trips) == ("rate_limited", 17.0, 0)
    send(made, "ok", 17.0)
    send(made, "ok", 17.0)
    for _ in range(4):
        send(made, "failure", 17.0)
    assert made.standing(17.0).state == "closed"


def test_a_retry_after_of_days_is_cut_and_one_of_0_is_backed_off_from() -> None:
    made, other = breaker(), breaker()
    send(made, "rate_limited", 0.0, 1e6)
    assert made.standing(0.0).left_s == RULES.retry_after_cap_s
    send(other, "rate_limited", 0.0, 0.0)
    assert other.standing(0.0).left_s == RULES.cool_s


def test_a_later_retry_after_of_a_request_already_under_way_lengthens_the_pause() -> None:
    made = breaker()
    first, second = made.admit(0.0), made.admit(0.0)
    assert first and second
    made.report(first, "rate_limited", 0.0, 5.0)
    assert made.report(second, "rate_limited", 1.0, 9.0)
    assert made.standing(1.0).left_s == 9.0


def test_a_shorter_retry_after_of_a_request_already_under_way_shortens_nothing() -> None:
    made = breaker()
    first, second = made.admit(0.0), made.admit(0.0)
    assert first and second
    made.report(first, "rate_limited", 0.0, 9.0)
    assert not made.report(second, "rate_limited", 1.0, 2.0)
    assert made.standing(1.0).left_s == 8.0


def test_rate_limits_without_retry_after_back_off_once_for_each_episode() -> None:
    made = breaker()
    crowd = [made.admit(0.0) for _ in range(50)]
    for seat in crowd:
        assert seat is not None
        made.report(seat, "rate_limited", 0.0)
    assert made.standing(0.0).left_s == 1.0
    send(made, "rate_limited", 1.0)
    assert made.standing(1.0).left_s == 2.0


def test_requests_begun_before_it_opened_neither_close_nor_reopen_it() -> None:
    made = breaker()
    early = [made.admit(0.0) for _ in range(3)]
    for _ in range(5):
        send(made, "failure", 0.0)
    before = made.export()
    for seat, outcome in zip(early, ("ok", "failure", "rate_limited"), strict=True):
        assert seat is not None
        made.report(seat, outcome, 5.0)  # type: ignore[arg-type]
    assert made.export() == before


def test_a_stream_that_breaks_after_its_first_byte_counts_as_one_failure() -> None:
    made = breaker(BreakerRules(consecutive=99, min_volume=4, error_rate=1.0, jitter=0))
    for _ in range(4):
        seat = made.admit(0.0)
        assert seat is not None
        made.report(seat, "ok", 0.0)
        made.report(seat, "failure", 0.0)
    assert made.standing(0.0).reason == "error_rate"


def test_a_released_or_forgotten_probe_makes_room_for_another() -> None:
    made = opened()
    seat = made.admit(5.0)
    assert seat is not None and made.admit(5.0) is None
    made.release(seat)
    assert made.admit(6.0) is not None
    assert made.admit(6.0 + RULES.probe_timeout_s) is not None


def test_a_clock_that_was_set_back_keeps_nothing_open_for_ever() -> None:
    made = opened(now=1e9)
    assert made.standing(0.0).left_s <= RULES.longest_s


@pytest.mark.parametrize(
    "change",
    [{"at": "x"}, {"open": 1}, {"trips": "2"}, {"reason": "mood"}, {"until": float("nan")}],
)
def test_a_spoilt_shared_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shared state"):
        breaker().merge({**breaker().export(), **change}, 0.0)


def test_a_state_from_the_future_is_a_wrong_clock_and_ignored() -> None:
    made = breaker()
    assert not made.merge(opened(now=1000.0).export(), 900.0)
    assert made.merge(opened(now=1000.0).export(), 999.0)


STATES = st.fixed_dictionaries(
    {
        "at": st.integers(0, 3).map(float),
        "open": st.booleans(),
        "until": st.integers(0, 9).map(float),
        "reason": st.sampled_from([None, "failures", "rate_limited"]),
        "trips": st.integers(0, 3),
    }
)


@given(st.lists(STATES, max_size=5), st.randoms(use_true_random=False))
def test_merging_gives_the_same_in_any_order_and_twice_changes_nothing(
    states: list[dict[str, Any]], shuffler: Any
) -> None:
    one, other = breaker(), breaker()
    for state in states:
        one.merge(state, 10.0)
    for state in shuffler.sample(states, len(states)) * 2:
        other.merge(state, 10.0)
    assert one.export() == other.export()
    assert states == [] or one.at == max(0.0, *(s["at"] for s in states))


class BreakerModel(RuleBasedStateMachine):
    """A plain model of the rules beside the breaker: failures in a row and rate limits only."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = BreakerRules(consecutive=2, min_volume=10**6, jitter=0.0, probes=2)
        self.breaker = Breaker(self.rules, lambda: 0.0)
        self.now = 0.0
        self.open_until: float | None = None
        self.row = self.passed = self.trips = 0
        self.steady_since = 0.0
        self.running: list[tuple[Seat, int]] = []
        self.era = 0

    def turn(self, until: float | None) -> None:
        self.open_until, self.row, self.passed = until, 0, 0
        self.steady_since = self.now
        self.era += 1

    def probes(self) -> int:
        return sum(1 for seat, era in self.running if era == self.era)

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        timeout = self.rules.probe_timeout_s
        self.running = [
            (seat, era)
            for seat, era in self.running
            if seat.probe is None or seat.probe > self.now - timeout
        ]

    @rule()
    def begin(self) -> None:
        seat = self.breaker.admit(self.now)
        if self.open_until is None:
            assert seat is not None
        elif self.now < self.open_until:
            assert seat is None
        else:
            assert (seat is not None) == (self.probes() < self.rules.probes)
        if seat is not None:
            self.running.append((seat, self.era))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "failure", "rate_limited", "neutral"]))
    def end(self, data: st.DataObject, outcome: Outcome) -> None:
        seat, era = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.breaker.report(seat, outcome, self.now)
        if era != self.era or outcome == "neutral":
            return
        if outcome == "ok":
            self.row = 0
            if self.open_until is None:
                return
            self.passed += 1
            if self.passed == self.rules.close_after:
                self.turn(None)
            return
        self.row += 1
        limited = outcome == "rate_limited"
        if limited or self.open_until is not None or self.row == self.rules.consecutive:
            if self.open_until is None and self.now - self.steady_since >= self.rules.window_s:
                self.trips = 0
            base, cap = (
                (self.rules.cool_s, self.rules.cool_cap_s)
                if limited
                else (self.rules.open_s, self.rules.open_cap_s)
            )
            length = min(cap, base * 2**self.trips)
            self.trips += 1
            self.turn(self.now + length)

    @invariant()
    def agrees(self) -> None:
        standing = self.breaker.standing(self.now)
        if self.open_until is None:
            assert standing.state == "closed" and standing.admits
        elif self.now < self.open_until:
            assert standing.state == "open"
            assert standing.left_s == pytest.approx(self.open_until - self.now)
        else:
            assert standing.state == "half_open"
        steady = self.open_until is None and self.now - self.steady_since >= self.rules.window_s
        assert standing.trips == (0 if steady else self.trips)


TestBreakerModel = BreakerModel.TestCase
