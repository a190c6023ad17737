"""No user may make up more than a share of what is learned from: a guard against poisoned data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def most_per_user(rows: Mapping[str, int], share: float) -> int | None:
    """How many rows each user may have so that nobody has more than a share of all that stay.

    Args:
        rows: number of rows of each user.
        share: above 0, at most 1.

    Returns:
        The largest such number; None when there are too few users for any to hold.
    """
    for most in range(max(rows.values(), default=0), 0, -1):
        left = sum(min(count, most) for count in rows.values())
        if max(min(count, most) for count in rows.values()) <= share * left:
            return most
    return None


def over_share(users: Iterable[str], most: int) -> set[int]:
    """Positions of rows, given by their users, beyond the number that each user may have."""
    seen: Counter[str] = Counter()
    over: set[int] = set()
    for position, user in enumerate(users):
        seen[user] += 1
        if seen[user] > most:
            over.add(position)
    return over
