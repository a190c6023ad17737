"""How a transfer is divided and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]
"""One progress line as Ollama writes it: status, and for blobs digest, total, completed."""


@dataclass(frozen=True, slots=True)
class TransferRules:
    """Ollama's numbers.

    Attributes:
        parts: the most parts of a blob, which are fetched at the same time.
        least_bytes: a part is not smaller, unless the blob is.
        most_bytes: a part is not larger.
        stall_s: silence after which a connection is given up.
        tries: attempts in a row without one new byte.
        pause_s: before the second attempt; doubled each time.
    """

    parts: int = 16
    least_bytes: int = 100_000_000
    most_bytes: int = 1_000_000_000
    stall_s: float = 30.0
    tries: int = 6
    pause_s: float = 0.5

    def divide(self, size: int) -> list[tuple[int, int]]:
        """The parts of `size` bytes as (offset, length)."""
        length = min(max(-(-size // self.parts), self.least_bytes), self.most_bytes)
        return [(at, min(length, size - at)) for at in range(0, size, length)]
