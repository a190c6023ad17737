from __future__ import annotations

from slipway.gateway.limits import RequestWindow


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_window_slides() -> None:
    clock = Clock()
    window = RequestWindow(clock)
    assert window.take(1, 2) == 0
    clock.now += 20
    assert window.take(1, 2) == 0
    clock.now += 10
    assert window.take(1, 2) == 30  # the first leaves 60 s after it came
    assert window.take(2, 2) == 0  # another token has its own window
    clock.now += 30
    assert window.take(1, 2) == 0
    assert window.take(1, 2) == 20


def test_waiting_as_told_is_enough_even_after_the_limit_was_lowered() -> None:
    clock = Clock()
    window = RequestWindow(clock)
    for _ in range(5):
        assert window.take(1, 5) == 0
        clock.now += 1
    wait = window.take(1, 2)
    assert wait > 0
    clock.now += wait
    assert window.take(1, 2) == 0
