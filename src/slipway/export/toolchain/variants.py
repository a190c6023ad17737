"""Which processor features a build may use, from the fastest to the safest.

A compiler can emit instructions for its own processor that a virtual machine does not run (GCC 12
with AMX on Sapphire Rapids: SIGILL at the first prompt). So each build is tested, and the next
variant of this ladder is built when the test fails.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from slipway.core.errors import UsageError, nearest
from slipway.core.i18n import tr
from slipway.export.toolchain.gpu import Gpu

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
        gpus: GPU backends that are built in.
    """

    name: str
    native: bool
    compiler_flags: tuple[str, ...] = ()
    options: tuple[tuple[str, bool], ...] = ()
    gpus: tuple[Gpu, ...] = ()

    def cmake_flags(self) -> tuple[str, ...]:
        """The variant as CMake settings."""
        flags = [f"-DGGML_NATIVE={'ON' if self.native else 'OFF'}"]
        flags += [f"-DGGML_{name}={'ON' if on else 'OFF'}" for name, on in self.options]
        flags += [f"-DGGML_{gpu.upper()}=ON" for gpu in self.gpus]
        if "metal" not in self.gpus:
            flags.append("-DGGML_METAL=OFF")  # ggml's default on macOS is on
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


ORDER = ("native", "native-noamx", "native-avx512f", "avx2", "portable", "baseline")
"""Names of the CPU variants, best first."""


def rank(name: str) -> int:
    """How good a variant is among others, by its name; lower is better, unknown ones come last."""
    longest = max((k for k in ORDER if (name + "-").startswith(k + "-")), key=len, default="")
    position = ORDER.index(longest) if longest else len(ORDER)
    has_gpu = any(name.endswith(f"-{gpu}") for gpu in ("cuda", "metal", "vulkan"))
    return position if has_gpu else position + 100


def plan(
    variants: Sequence[Variant], gpus: Sequence[Gpu] = (), known_bad: Collection[str] = ()
) -> list[Variant]:
    """The builds to try in order: with the GPU backends first, then for the CPU alone.

    Args:
        known_bad: names of variants that have failed on this processor; they are left out, unless
            nothing else would be left.
    """
    suffix = "".join(f"-{gpu}" for gpu in gpus)
    with_gpu = [replace(v, name=v.name + suffix, gpus=tuple(gpus)) for v in variants]
    every = [*(with_gpu if gpus else []), *variants]
    return [v for v in every if v.name not in known_bad] or every


def after_failure(
    rest: Sequence[Variant], failed: Variant, reasons: Sequence[str]
) -> list[Variant]:
    """What is still worth building after a variant failed.

    An illegal instruction is the CPU code's fault: the next variant may keep the GPU. Any other
    fault of a GPU build is put down to the GPU backend: what is left is for the CPU alone.
    """
    if not failed.gpus or any("SIGILL" in reason for reason in reasons):
        return list(rest)
    return [variant for variant in rest if not variant.gpus]


def named(variants: Sequence[Variant], name: str) -> Variant:
    """The variant of that name.

    Raises:
        UsageError: there is none on this processor; the message has those there are.
    """
    for variant in variants:
        if variant.name == name:
            return variant
    names = [variant.name for variant in variants]
    close = nearest(name, names)
    raise UsageError(
        "toolchain.unknown_variant",
        tr("no variant `{name}` on this processor", name=name),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("choose one of {names}", names=", ".join(names)),
    )
