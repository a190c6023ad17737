from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.routing import Channel, plan, resolve_model


def channel(number: int, **more: object) -> Channel:
    values = {"models": {"m": f"m-{number}"}, **more}
    return Channel(number, f"c{number}", "slipway", "http://x", "loopback", **values)  # type: ignore[arg-type]


def order(channels: list[Channel], model: str = "m", seed: int = 0) -> list[int]:
    draws = random.Random(seed)
    return [t.channel.id for t in plan(channels, model, [draws.random() for _ in channels])]


def test_higher_priority_comes_first_and_model_names_are_mapped() -> None:
    channels = [channel(1, priority=-1), channel(2, priority=5), channel(3)]
    assert order(channels) == [2, 3, 1]
    assert plan(channels, "m", [0.0] * 3)[0].upstream_model == "m-2"


def test_disabled_channels_and_those_without_the_model_are_left_out() -> None:
    channels = [channel(1, enabled=False), channel(2, models={"other": "m"}), channel(3)]
    assert order(channels) == [3]
    assert order(channels, "nothing") == []


def test_weights_are_shares() -> None:
    channels = [channel(1, weight=3), channel(2, weight=1), channel(3, weight=0)]
    orders = [order(channels, seed=seed) for seed in range(2000)]
    first = Counter(each[0] for each in orders)
    assert 0.71 < first[1] / 2000 < 0.79 and first[3] == 0
    assert all(each[2] == 3 for each in orders)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 3), st.booleans()), max_size=6),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6),
)
def test_every_usable_channel_is_tried_exactly_once_in_order_of_priority(
    rows: list[tuple[int, int, bool]], draws: list[float]
) -> None:
    channels = [channel(n, priority=p, weight=w, enabled=on) for n, (p, w, on) in enumerate(rows)]
    targets = [target.channel for target in plan(channels, "m", draws)]
    assert sorted(c.id for c in targets) == [c.id for c in channels if c.enabled]
    priorities = [c.priority for c in targets]
    assert priorities == sorted(priorities, reverse=True)


def test_a_name_without_a_tag_means_latest_unless_it_is_offered_itself() -> None:
    latest, plain = channel(1, models={"a:latest": "x"}), channel(2, models={"a": "y"})
    assert resolve_model([latest], "a") == "a:latest"
    assert resolve_model([plain], "a:latest") == "a"
    assert resolve_model([latest, plain], "a") == "a"
    assert resolve_model([latest], "b") is None
    assert resolve_model([channel(1, enabled=False)], "m") is None
