"""Requests per minute for each token: a sliding window in this process."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0


class RequestWindow:
    """Counts each token's requests of the last minute.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: dict[int, deque[float]] = {}

    def take(self, token_id: int, limit: int) -> int:
        """Count a request if the limit allows it.

        Returns:
            0 when it does, else the seconds after which the next one is allowed.
        """
        now = self._clock()
        times = self._times.setdefault(token_id, deque())
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) >= limit:
            # as many must leave the window as are over the limit, which may have been lowered
            return max(1, math.ceil(times[len(times) - limit] + WINDOW_S - now))
        times.append(now)
        return 0
