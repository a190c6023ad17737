"""How much happened in the last minute: a sliding window with cells of one second."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 60


class Window:
    """Amounts by the second in which they came; those of 60 s and more ago are forgotten.

    Times are monotonic seconds. A cell is forgotten as a whole, when its last moment is a minute
    old, so never more than the limit passes in any 60 s.
    """

    __slots__ = ("_cells", "total")

    def __init__(self) -> None:
        self._cells: deque[list[int]] = deque()  # [second, amount]
        self.total = 0

    def forget(self, now: float) -> None:
        """Leave out what is a minute old."""
        oldest = math.floor(now) - WINDOW_S
        while self._cells and self._cells[0][0] < oldest:
            self.total -= self._cells.popleft()[1]

    def add(self, now: float, amount: int) -> int:
        """Count an amount.

        Returns:
            the second under which it is counted, for `correct`.
        """
        second = math.floor(now)
        if self._cells and self._cells[-1][0] == second:
            self._cells[-1][1] += amount
        else:
            self._cells.append([second, amount])
        self.total += amount
        return second

    def correct(self, second: int, by: int) -> None:
        """Change what was counted in a second, if it still counts."""
        for cell in self._cells:
            if cell[0] == second:
                by = max(by, -cell[1])
                cell[1] += by
                self.total += by
                return

    def wait_s(self, now: float, amount: int, limit: int) -> float:
        """Seconds until `amount` more is allowed; 0 when it is now.

        An amount above the limit is allowed when nothing else is in the window: it could never be
        otherwise.
        """
        self.forget(now)
        over = self.total + amount - max(limit, amount)
        if over <= 0:
            return 0.0
        for second, part in self._cells:
            over -= part
            if over <= 0:
                return max(0.001, second + 1 + WINDOW_S - now)
        return float(WINDOW_S)

    @property
    def empty(self) -> bool:
        """Whether nothing is counted."""
        return not self._cells
