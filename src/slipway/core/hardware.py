"""What this machine has: processor features, memory, accelerators. Nothing heavy is loaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU: maker's name and memory in bytes."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine as Slipway sees it.

    Attributes:
        cpu: model name.
        cpu_flags: the processor's feature flags that matter here, as the kernel names them.
        cores: processors this process may use.
        memory_bytes: physical memory, or the container's limit where that is lower.
        accelerators: GPUs found; empty on a CPU-only machine.
    """

    cpu: str
    cpu_flags: frozenset[str]
    cores: int
    memory_bytes: int
    accelerators: tuple[Accelerator, ...]

    @property
    def has_bf16(self) -> bool:
        """Whether matrix products in bf16 are a hardware instruction here."""
        return bool(self.accelerators) or bool({"amx_bf16", "avx512_bf16"} & self.cpu_flags)


_FLAGS = frozenset(
    [
        "avx",
        "avx2",
        "bmi2",
        "f16c",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512vbmi",
        "avx512_vnni",
        "avx512_bf16",
        "avx_vnni",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "asimd",
        "asimddp",
        "asimdhp",
        "bf16",
        "i8mm",
        "sve",
        "sme",
    ]
)


def share_cores() -> None:
    """Let idle threads of OpenMP sleep soon, here and in child processes; what the user set stays.

    GNU's OpenMP lets a thread that waits for the others turn round for up to a second. As soon as a
    second program computes on the same cores, the waiting threads take the time of those they wait
    for: two trainings on two cores were each 20 to 100 times slower, instead of twice. Alone the
    shorter wait costs 2 to 5 %. Works until the first program part that uses OpenMP is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def probe() -> Hardware:
    """Look at the machine; takes a few milliseconds (more where `nvidia-smi` exists)."""
    cpu, flags = processor()
    return Hardware(
        cpu=cpu,
        cpu_flags=flags,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpu_count(),
        memory_bytes=_memory_bytes(),
        accelerators=_nvidia(),
    )


def processor() -> tuple[str, frozenset[str]]:
    """The processor's model name and those of its feature flags that matter here."""
    name, flags = _cpu()
    return name, flags & _FLAGS


def _cpu_count() -> int:
    return os.cpu_count() or 1


def _cpu() -> tuple[str, frozenset[str]]:
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return name, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                name = value.strip()
            case "flags" | "Features":
                flags = frozenset(value.split())
    return name, flags


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit)) if limit.isdigit() else total
    except OSError:
        return total


def available_memory_bytes() -> int:
    """Memory that can be had now without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _memory_bytes()


def _nvidia() -> tuple[Accelerator, ...]:
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    try:
        answer = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for line in answer.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if mebibytes.strip().isdigit():
            found.append(Accelerator(name.strip(), int(mebibytes) << 20))
    return tuple(found)
