"""How much memory is left for workers."""

from __future__ import annotations

from slipway.core.hardware import available_memory_bytes, probe
from slipway.engine.owner import FreeBytes
from slipway.engine.settings import EngineSettings
from slipway.engine.table import Entry

_RESERVE = 0.05


def free_for_workers(
    available: int, taken: int, resident: int, *, limit: int = 0, reserve: int = 0
) -> int:
    """Bytes that another worker may take; may be negative.

    Args:
        available: what the machine could give now.
        taken: what the workers have or will take.
        resident: what they have.
        limit: what all workers together may take; 0 is no limit.
        reserve: what stays for others.
    """
    free = available - max(0, taken - resident) - reserve
    return min(free, limit - taken) if limit else free


def measured(settings: EngineSettings) -> FreeBytes:
    """`free_for_workers` of this machine, a container's limit included."""
    total = probe().memory_bytes

    def free(entries: list[Entry]) -> int:
        taken = sum(entry.memory_bytes() for entry in entries)
        resident = sum(entry.resident_bytes() for entry in entries)
        return free_for_workers(
            min(available_memory_bytes(), total - resident),
            taken,
            resident,
            limit=settings.max_memory,
            reserve=int(total * _RESERVE),
        )

    return free
