"""How busy the machine is: what a benchmark's numbers depend on besides the model."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slipway.core.hardware import available_memory_bytes, probe

BUSY = 0.15
"""Share of the processor in use by others above which numbers are worth little."""


@dataclass(frozen=True, slots=True)
class Load:
    """The machine before a benchmark starts.

    Attributes:
        cpu: the processor's name.
        cores: cores this process may use.
        busy: share of the processor that was in use for half a second, 0..1.
        load_1min: programs that ran or waited on average over the last minute.
        free_bytes: memory that can be had.
    """

    cpu: str
    cores: int
    busy: float
    load_1min: float
    free_bytes: int

    @property
    def disturbed(self) -> bool:
        """Whether other programs take enough of the processor to be seen in the numbers."""
        return self.busy > BUSY


def look_at_load(seconds: float = 0.5) -> Load:
    """Watch the machine for `seconds`."""
    import psutil

    hardware = probe()
    return Load(
        hardware.cpu,
        hardware.cores,
        psutil.cpu_percent(interval=seconds) / 100,
        os.getloadavg()[0],
        available_memory_bytes(),
    )
