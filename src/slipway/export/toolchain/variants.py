"""Which processor features a build may use, from the fastest to the safest.

A compiler can emit instructions for its own processor that a virtual machine does not run (GCC 12
with AMX on Sapphire Rapids: SIGILL at the first prompt). So each build is tested, and the next
variant of this ladder is built when the test fails.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

_AMX = ("-mno-amx-int8", "-mno-amx-tile", "-mno-amx-bf16")
_AVX512_EXTRAS = ("-mno-avx512vnni", "-mno-avx512bf16", "-mno-avx512vbmi")
_X86_OPTIONS = ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")


@dataclass(frozen=True, slots=True)
class Variant:
    """One rung of the ladder.

    Attributes:
        name: short name, part of the toolchain's folder name.
        native: whether the compiler may use what it sees on this machine.
        compiler_flags: flags for C and C++ that take features away.
        options: ggml features -> on or off; empty leaves ggml's choice.
    """

    name: str
    native: bool
    compiler_flags: tuple[str, ...] = ()
    options: tuple[tuple[str, bool], ...] = ()

    def cmake_flags(self) -> tuple[str, ...]:
        """The variant as CMake settings."""
        flags = [f"-DGGML_NATIVE={'ON' if self.native else 'OFF'}"]
        flags += [f"-DGGML_{name}={'ON' if on else 'OFF'}" for name, on in self.options]
        joined = " ".join(self.compiler_flags)
        return (*flags, f"-DCMAKE_C_FLAGS={joined}", f"-DCMAKE_CXX_FLAGS={joined}")


def ladder(cpu_flags: frozenset[str], machine: str | None = None) -> list[Variant]:
    """The variants worth trying on a processor with these feature flags, best first.

    Args:
        cpu_flags: names as in `core.hardware`.
        machine: `platform.machine()`; given in tests.
    """
    found = [Variant("native", native=True)]
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64", "i686"):
        return [*found, Variant("portable", native=False)]
    without: tuple[str, ...] = ()
    if any(flag.startswith("amx") for flag in cpu_flags):
        without = _AMX
        found.append(Variant("native-noamx", True, without))
    if {"avx512_vnni", "avx512_bf16"} & cpu_flags:
        without = (*without, *_AVX512_EXTRAS)
        found.append(Variant("native-avx512f", True, without))
    if "avx2" in cpu_flags:
        found.append(Variant("avx2", False, (), tuple((name, True) for name in _X86_OPTIONS)))
    found.append(Variant("baseline", False, (), tuple((name, False) for name in _X86_OPTIONS)))
    return found
