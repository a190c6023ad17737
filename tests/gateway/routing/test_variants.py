from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.gateway.routing.variants import Arm, Fallbacks, Mirror, Split, point_of

USERS = [f"user-{n}" for n in range(5000)]


def arms_of(split: Split) -> dict[str, str | None]:
    found = {user: split.arm_of(user) for user in USERS}
    return {user: arm.name if arm else None for user, arm in found.items()}


def test_users_are_shared_out_in_basis_points_and_stick_to_their_arm() -> None:
    split = Split("canary", (Arm("a", "m-a", 1000), Arm("b", "m-b", 2500)))
    found = arms_of(split)
    count = Counter(found.values())
    assert abs(count["a"] / 5000 - 0.1) < 0.02 and abs(count["b"] / 5000 - 0.25) < 0.03
    assert found == arms_of(Split("canary", (Arm("a", "m-a", 1000), Arm("b", "m-b", 2500))))


def test_arms_lie_one_after_another_to_the_basis_point() -> None:
    split = Split("s", (Arm("a", "m", 1234), Arm("none", "m", 0), Arm("b", "m", 4321)))
    for user, arm in arms_of(split).items():
        point = point_of("s", user)
        assert arm == ("a" if point < 1234 else "b" if point < 5555 else None)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=4), st.integers(0, 2000))
def test_an_added_arm_takes_only_users_who_were_in_none(shares: list[int], added: int) -> None:
    arms = tuple(Arm(f"a{n}", "m", share) for n, share in enumerate(shares))
    before = arms_of(Split("s", arms))
    after = arms_of(Split("s", (*arms, Arm("new", "m", added))))
    moved = {before[user] for user in USERS if before[user] != after[user]}
    assert moved <= {None}
    assert {after[user] for user in USERS if before[user] != after[user]} <= {"new"}


def test_a_growing_canary_keeps_its_users_and_another_name_draws_others() -> None:
    small = {u for u, arm in arms_of(Split("s", (Arm("a", "m", 500),))).items() if arm}
    large = {u for u, arm in arms_of(Split("s", (Arm("a", "m", 2000),))).items() if arm}
    other = {u for u, arm in arms_of(Split("t", (Arm("a", "m", 500),))).items() if arm}
    assert small < large
    assert len(small & other) < len(small) / 2


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ((Arm("a", "m", -1),), "negative"),
        ((Arm("a", "m", 6000), Arm("b", "m", 5000)), "more than"),
        ((Arm("a", "m", 1), Arm("a", "n", 1)), "same name"),
    ],
)
def test_a_split_that_cannot_be_is_refused_by_name(arms: tuple[Arm, ...], words: str) -> None:
    with pytest.raises(ValueError, match=f"`s`.*{words}"):
        Split("s", arms)


@pytest.mark.parametrize("share", [0, 250, 10_000])
def test_a_mirror_takes_its_share_of_the_requests_and_the_same_ones_everywhere(share: int) -> None:
    mirror = Mirror("shadow", share)
    taken = [mirror.takes(f"req-{n}") for n in range(5000)]
    assert abs(sum(taken) / 5000 - share / 10_000) <= (0.01 if share == 250 else 0)
    assert taken == [Mirror("shadow", share).takes(f"req-{n}") for n in range(5000)]


def test_fallbacks_are_listed_once_without_the_model_itself() -> None:
    fallbacks = Fallbacks(failed={"m": ("a", "m", "b", "a")}, context={"m": ("long",)})
    assert fallbacks.of("m", "failed") == ("a", "b")
    assert fallbacks.of("m", "context") == ("long",)
    assert fallbacks.of("m", "content") == fallbacks.of("x", "failed") == ()
