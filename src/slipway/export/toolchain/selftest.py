"""Prove that a build computes: each quant type is loaded, prompted and decoded in child processes.

A crash (SIGILL from instructions that this machine does not run) kills only the child. Besides
crashes, the perplexity over a short text must be finite and near that of the float model, so that
kernels that run but compute nonsense are refused too.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.export.toolchain import tiny_gguf
from slipway.export.toolchain.model import Toolchain

TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
PROMPT_TOKENS = 96
DECODE_TOKENS = 4
_TIMEOUT_S = 120.0
_TRIES = 6  # llama.cpp writes its log from a thread that a quick exit can cut off
_MAX_RATIO = 1.25  # correct kernels stay within 1.09 on these weights, Q4_K_M being the farthest


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What the self-test found.

    Attributes:
        passed: whether every type ran and computed.
        failures: quant type -> what went wrong, in English, such as "SIGILL in llama-bench".
        seconds: time taken.
    """

    passed: bool
    failures: dict[str, str]
    seconds: float


def self_test(toolchain: Toolchain, on_type: Callable[[str], None] | None = None) -> SelfTestResult:
    """Run the test of every type in `TYPES`; stops at the first crash, since a rebuild follows."""
    started = time.monotonic()
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="slipway-selftest-") as name:
        folder = Path(name)
        try:
            reference = _reference(toolchain, folder)
        except ToolError as error:
            return SelfTestResult(False, {"F32": _reason(error)}, time.monotonic() - started)
        for type_name in TYPES:
            if on_type:
                on_type(type_name)
            try:
                problem = _test_type(toolchain, folder, type_name, reference)
            except ToolError as error:
                problem = _reason(error)
            if problem:
                failures[type_name] = problem
                break
    return SelfTestResult(not failures, failures, time.monotonic() - started)


def _reference(toolchain: Toolchain, folder: Path) -> float:
    """Write the model and text; perplexity of the F32 model."""
    process.run(
        [sys.executable, tiny_gguf.__file__, folder / "F32.gguf"],
        env={"PYTHONPATH": str(toolchain.gguf_py)},
        timeout_s=_TIMEOUT_S,
    )
    words = " ".join(f"w{(index * 37) % 200}" for index in range(300))
    (folder / "text.txt").write_text(words, encoding="utf-8")
    return _perplexity(toolchain, folder, "F32")


def _test_type(toolchain: Toolchain, folder: Path, type_name: str, reference: float) -> str:
    """Quantise, prompt, decode, compare; what is wrong, or nothing."""
    model = folder / f"{type_name}.gguf"
    quantize: list[str | Path] = [
        toolchain.program("llama-quantize"),
        folder / "F32.gguf",
        model,
        type_name,
    ]
    process.run(quantize, timeout_s=_TIMEOUT_S)
    bench: list[str | Path] = [
        *(toolchain.program("llama-bench"), "-m", model, "-r", "1", "-o", "json"),
        *("-p", str(PROMPT_TOKENS), "-n", str(DECODE_TOKENS), "-t", "2"),
    ]
    process.run(bench, timeout_s=_TIMEOUT_S)
    found = _perplexity(toolchain, folder, type_name)
    model.unlink()
    ratio = found / reference
    if not math.isfinite(ratio) or not 1 / _MAX_RATIO < ratio < _MAX_RATIO:
        return f"wrong numbers: perplexity {found:.3f}, float model {reference:.3f}"
    return ""


def _perplexity(toolchain: Toolchain, folder: Path, type_name: str) -> float:
    command: list[str | Path] = [
        *(toolchain.program("llama-perplexity"), "-m", folder / f"{type_name}.gguf"),
        *("-f", folder / "text.txt", "-c", "64", "-b", "64", "-t", "2", "--chunks", "4"),
    ]
    for _ in range(_TRIES):
        text = process.run(command, timeout_s=_TIMEOUT_S)
        if match := re.search(r"Final estimate: PPL = ([0-9.eE+naif-]+)", text):
            return float(match[1])
    return math.nan


def _reason(error: ToolError) -> str:
    """A tool's failure in a few words: signal or exit status, program, last line."""
    return " ".join(error.message_en.split())[:300]
