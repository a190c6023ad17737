"""Which features of the processor a build uses, and a stamp by which another processor shows."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterable, Mapping

from slipway.core.hardware import processor

FEATURES: dict[str, str] = {
    "avx": "AVX",
    "avx2": "AVX2",
    "bmi2": "BMI2",
    "f16c": "F16C",
    "fma": "FMA",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "asimdhp": "FP16_VA",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "sme": "SME",
}
"""The kernel's name of a processor feature -> ggml's, for those that ggml has kernels for."""


def stamp(flags: Iterable[str], machine: str) -> str:
    """Eight hex digits that differ when the processor's features do.

    Args:
        flags: names as in `core.hardware`.
        machine: `platform.machine()`.
    """
    text = " ".join([machine.lower(), *sorted(flags)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def stamp_here() -> str:
    """The stamp of this machine's processor."""
    return stamp(processor()[1], platform.machine())


def parse_features(text: str) -> dict[str, str]:
    """ggml's features in the `system_info` line of a program's output, such as AVX2 -> "1"."""
    match = re.search(r"system_info:.*", text)
    if match is None:
        return {}
    return dict(re.findall(r"\b([A-Z][A-Z0-9_]+) = (\d+)", match[0]))


def features_used(features: Mapping[str, str]) -> list[str]:
    """The processor's features that a build uses, by ggml's names, in ggml's order."""
    return [name for name in features if name in FEATURES.values() and features[name] != "0"]


def features_missed(flags: Iterable[str], features: Mapping[str, str]) -> list[str]:
    """Flags of the processor for which ggml has kernels that this build does not use.

    Args:
        flags: names as in `core.hardware`.
        features: as from `parse_features`; empty when unknown, then nothing is missed.
    """
    if not features:
        return []
    return sorted(
        flag for flag in flags if flag in FEATURES and features.get(FEATURES[flag], "0") == "0"
    )
