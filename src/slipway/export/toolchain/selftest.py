"""Prove that a build computes: each quant type is loaded, prompted and decoded in child processes.

A crash (SIGILL from instructions that this machine does not run) kills only the child. Besides
crashes, the perplexity over a short text must agree with that of the same weights turned back into
floats, so that kernels that run but compute nonsense are refused too.
"""

from __future__ import annotations

import math
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.export.quantise import uniform_imatrix
from slipway.export.toolchain import tiny_gguf
from slipway.export.toolchain.cpu import parse_features
from slipway.export.toolchain.model import Toolchain

TYPES = (
    *("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S"),
    *("Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "MXFP4_MOE", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0"),
)
"""Types that can be made without an importance matrix; the common ones come first."""

MATRIX_TYPES = (
    *("IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "Q2_K_S"),
)
"""Types that need an importance matrix; making them takes most of a long test's time."""

PROMPT_TOKENS = 96
DECODE_TOKENS = 4
_TIMEOUT_S = 120.0
_TRIES = 6  # llama.cpp writes its log from a thread that a quick exit can cut off
_MAX_RATIO = 1.06  # correct kernels stay within 1.02 of their own dequantised weights
_MAX_LOSS = 2.5  # and the fewest bits within 1.7 of the float model
_FAULTS = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT")
_NOT_OFFERED = ("invalid ftype", "invalid quantization type")

Status = Literal["passed", "crashed", "wrong", "failed", "not_offered"]


@dataclass(frozen=True, slots=True)
class TypeResult:
    """One quant type's result.

    Attributes:
        name: the type.
        status: "crashed" means killed by a signal, "wrong" that the numbers are.
        detail: what went wrong, in English, such as "SIGILL in llama-bench"; else "".
        ratio: perplexity over that of the same weights as floats; None when it was not reached.
        seconds: time taken.
    """

    name: str
    status: Status
    detail: str
    ratio: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What the self-test found.

    Attributes:
        passed: whether every type ran and computed.
        failures: quant type -> what went wrong, in English, such as "SIGILL in llama-bench".
        seconds: time taken.
        types: results in the order of the test.
        features: ggml's features of this build, such as AVX2 -> "1"; empty when not told.
    """

    passed: bool
    failures: dict[str, str]
    seconds: float
    types: tuple[TypeResult, ...] = ()
    features: dict[str, str] = field(default_factory=dict)

    @property
    def conclusive(self) -> bool:
        """Whether a failure is the programs' own: a fault signal or wrong numbers.

        A full disk, an end for want of memory or a timeout says nothing about the build.
        """
        faults = any(fault in why for why in self.failures.values() for fault in _FAULTS)
        return faults or any(result.status == "wrong" for result in self.types)


OnType = Callable[[str, int, int], None]
"""Progress: type that is tested now, how many are done, how many there are."""


def self_test(
    toolchain: Toolchain,
    on_type: OnType | None = None,
    *,
    all_types: bool = False,
    keep_going: bool = False,
) -> SelfTestResult:
    """Run the test of every type in `TYPES`, in a few seconds.

    Args:
        all_types: those that need an importance matrix too, with a uniform one; about a minute.
        keep_going: go on after a failure; else the first ends the test, since a rebuild follows.
    """
    started = time.monotonic()
    names = (*TYPES, *MATRIX_TYPES) if all_types else TYPES
    results: list[TypeResult] = []
    with tempfile.TemporaryDirectory(prefix="slipway-selftest-") as name:
        bench = _Bench(toolchain, Path(name))
        try:
            bench.prepare(matrix=all_types)
        except ToolError as error:
            seconds = time.monotonic() - started
            failed = TypeResult("F32", _status(error), reason(error), None, seconds)
            return SelfTestResult(False, {"F32": failed.detail}, seconds, (failed,))
        for index, type_name in enumerate(names):
            if on_type:
                on_type(type_name, index, len(names))
            results.append(bench.test(type_name))
            if results[-1].status not in ("passed", "not_offered") and not keep_going:
                break
    failures = {r.name: r.detail for r in results if r.status not in ("passed", "not_offered")}
    seconds = time.monotonic() - started
    return SelfTestResult(not failures, failures, seconds, tuple(results), bench.features)


class _Bench:
    """The files of one self-test and what is done with them."""

    def __init__(self, toolchain: Toolchain, folder: Path) -> None:
        self._toolchain = toolchain
        self._folder = folder
        self._float = self._folder / "F32.gguf"
        self._matrix = self._folder / "imatrix.gguf"
        self._reference = math.nan
        self.features: dict[str, str] = {}

    def prepare(self, *, matrix: bool) -> None:
        """Write the model and the text; measure the float model."""
        gguf = {"PYTHONPATH": str(self._toolchain.gguf_py)}
        command: list[str | Path] = [sys.executable, tiny_gguf.__file__, self._float]
        process.run(command, env=gguf, timeout_s=_TIMEOUT_S)
        if matrix:
            command = [sys.executable, uniform_imatrix.__file__, self._float, self._matrix]
            process.run(command, env=gguf, timeout_s=_TIMEOUT_S)
        words = " ".join(f"w{(index * 37) % 200}" for index in range(300))
        (self._folder / "text.txt").write_text(words, encoding="utf-8")
        self._reference = self._perplexity(self._float)

    def test(self, type_name: str) -> TypeResult:
        """Quantise, prompt, decode, compare."""
        started = time.monotonic()
        ratio: float | None = None
        status: Status = "passed"
        detail = ""
        try:
            ratio, detail = self._measure(type_name)
            status = "wrong" if detail else "passed"
        except ToolError as error:
            detail, status = reason(error), _status(error)
            if any(sign in error.message_en for sign in _NOT_OFFERED):
                status, detail = "not_offered", ""
        return TypeResult(type_name, status, detail, ratio, time.monotonic() - started)

    def _measure(self, type_name: str) -> tuple[float, str]:
        model = self._folder / f"{type_name}.gguf"
        back = self._folder / f"{type_name}-F32.gguf"
        matrix: list[str | Path] = []
        if type_name in MATRIX_TYPES:
            matrix = ["--imatrix", self._matrix]
        self._quantize(*matrix, self._float, model, type_name)
        bench: list[str | Path] = [
            *(self._toolchain.program("llama-bench"), "-m", model, "-r", "1", "-o", "json"),
            *("-p", str(PROMPT_TOKENS), "-n", str(DECODE_TOKENS), "-t", "2"),
        ]
        process.run(bench, timeout_s=_TIMEOUT_S)
        if any(self._toolchain.variant.endswith(f"-{gpu}") for gpu in ("cuda", "metal", "vulkan")):
            process.run([*bench, "-dev", "none"], timeout_s=_TIMEOUT_S)  # the CPU's kernels too
        self._quantize("--allow-requantize", model, back, "F32")
        found, expected = self._perplexity(model), self._perplexity(back)
        model.unlink()
        back.unlink(missing_ok=True)
        ratio = found / expected if expected else math.nan
        loss = found / self._reference if self._reference else math.nan
        if not math.isfinite(ratio) or not 1 / _MAX_RATIO < ratio < _MAX_RATIO:
            return ratio, f"wrong numbers: perplexity {found:.3f}, as floats {expected:.3f}"
        if not 1 / _MAX_LOSS < loss < _MAX_LOSS:
            return (
                ratio,
                f"wrong weights: perplexity {found:.3f}, float model {self._reference:.3f}",
            )
        return ratio, ""

    def _quantize(self, *arguments: str | Path) -> None:
        program = self._toolchain.program("llama-quantize")
        process.run([program, *arguments, "2"], timeout_s=_TIMEOUT_S)

    def _perplexity(self, model: Path) -> float:
        # one thread: these models are so small that waiting for another costs more than it gives
        command: list[str | Path] = [
            *(self._toolchain.program("llama-perplexity"), "-m", model, "-t", "1"),
            *("-f", self._folder / "text.txt", "-c", "64", "-b", "64", "--chunks", "4"),
        ]
        for _ in range(_TRIES):
            text = process.run(command, timeout_s=_TIMEOUT_S)
            self.features = self.features or parse_features(text)
            if match := re.search(r"Final estimate: PPL = ([0-9.eE+naif-]+)", text):
                return float(match[1])
        return math.nan


def signal_of(error: ToolError) -> str:
    """The name of the signal that killed a program, such as "SIGILL"; "" when none did.

    A program behind a shell script is reported by the shell as 128 + the signal's number.
    """
    code = getattr(error, "returncode", None)
    if not isinstance(code, int):
        return ""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name if code < 0 or code > 128 else ""
    except ValueError:
        return ""


def _status(error: ToolError) -> Status:
    return "crashed" if signal_of(error) else "failed"


def reason(error: ToolError) -> str:
    """A tool's failure in a few words: signal or exit status, program, last lines."""
    text = " ".join(error.message_en.split())[:300]
    name = signal_of(error)
    program = re.match(r"`([^`]+)`", text)
    if name and program:
        return f"{name} in {program[1]}: {text}"
    return text
