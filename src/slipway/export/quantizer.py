"""GGUF -> quantised GGUF, several types at once, by llama.cpp's own quantiser."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import InputError, NotFoundError, ToolError, UsageError, nearest
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.hardware import available_memory_bytes, probe
from slipway.core.i18n import tr
from slipway.core.manifest import (
    Manifest,
    Setting,
    package_versions,
    read_manifest,
    verify_files,
    write_manifest,
)
from slipway.core.paths import Home
from slipway.export import uniform_imatrix
from slipway.export.convert import GGUF_NAME, disk_full, require_space
from slipway.export.toolchain import Toolchain, require_toolchain

# types that ruin a model unless a measured importance matrix says which weights matter
NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S"}
_NOT_OFFERED = {"COPY"}
_CALIBRATION_CHUNKS = 24  # of 512 tokens


def quant_types(toolchain: Toolchain) -> list[str]:
    """The types that this toolchain's `llama-quantize` offers, as it lists them itself."""
    # not `process.run`: the help ends with exit status 1, and all of it is wanted
    program = toolchain.program("llama-quantize")
    try:
        answer = subprocess.run(
            [program, "--help"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(
            "tool.failed",
            tr("`{program}` does not run: {reason}", program=program.name, reason=str(error)),
            tr("test the tools with `slipway toolchain install`"),
        ) from error
    return parse_types(answer.stdout + answer.stderr)


def parse_types(text: str) -> list[str]:
    """The type names in the help text of `llama-quantize`, in its order."""
    found = re.findall(r"^ *(?:\d+ +or +)?([A-Z][A-Z0-9_]+) +:", text, flags=re.MULTILINE)
    return [name for name in dict.fromkeys(found) if name not in _NOT_OFFERED]


def check_types(
    wanted: Sequence[str], offered: Sequence[str], *, calibrated: bool = False
) -> list[str]:
    """The wanted types in upper case without doubles.

    Args:
        calibrated: whether an importance matrix will be measured.

    Raises:
        UsageError: a type is unknown (nearest name offered), or needs an importance matrix.
    """
    types = list(dict.fromkeys(name.strip().upper() for name in wanted if name.strip()))
    if not types:
        raise UsageError(
            "quantize.no_type",
            tr("no quant type was given"),
            tr("try `{command}`", command="-t Q4_K_M"),
        )
    for name in types:
        if name not in offered:
            close = nearest(name, offered)
            raise UsageError(
                "quantize.unknown_type",
                tr("unknown quant type `{name}`", name=name),
                tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
                if close
                else tr("known types: {names}", names=", ".join(offered)),
            )
        if name in NEEDS_IMATRIX and not calibrated:
            raise UsageError(
                "quantize.needs_imatrix",
                tr("`{name}` needs an importance matrix, measured on a text", name=name),
                tr("try `{command}`", command=f"-t {name} --calibration FILE"),
            )
    return types


def quantize(
    gguf_dir: Path,
    types: Sequence[str],
    out_root: Path,
    *,
    home: Home,
    events: EventLog | None = None,
    calibration: Path | None = None,
) -> dict[str, Manifest]:
    """Quantise `gguf_dir/model.gguf` to each type, into `out_root/<TYPE>/model.gguf`.

    Types run at the same time as far as cores and memory allow. Each folder appears complete or
    not at all; those already finished stay when another fails.

    Args:
        gguf_dir: artefact of kind "gguf".
        types: names such as "Q4_K_M"; see `quant_types`.
        events: receives "progress" events with `stage` "quantize", `quant` and `fraction`.
        calibration: UTF-8 text like what the model will see (not the text it is tested on); the
            importance of each weight is measured on it. None: every weight counts the same.

    Returns:
        Type -> manifest (kind "quant") with metrics size_bytes, bpw (bits per weight), seconds,
        and notes `tensor_types` (how many tensors have which type) and `fallback_tensors` (tensors
        whose rows do not divide into the type's blocks and took a similar, larger type).

    Raises:
        UsageError: unknown type.
        NotFoundError, InputError: no such artefact, or its file is damaged.
        ResourceError: no toolchain, or the disk is full.
        ToolError: the quantiser failed.
    """
    toolchain = require_toolchain(home)
    checked = check_types(types, quant_types(toolchain), calibrated=calibration is not None)
    parent = read_manifest(gguf_dir, kind="gguf")
    source = require_gguf(gguf_dir, parent)
    require_space(out_root, sum(_estimate(source, name) for name in checked))
    log = events or EventLog(None)
    lanes = _lanes(len(checked), source.stat().st_size)
    threads = max(1, probe().cores // lanes)
    with tempfile.TemporaryDirectory(prefix="slipway-imatrix-") as scratch:
        matrix = importance(toolchain, source, Path(scratch) / "imatrix.gguf", calibration)
        kind = "uniform" if calibration is None else f"measured on {calibration.name}"
        work = _Work(toolchain, source, parent, log, threads, threading.Lock(), matrix, kind)
        with ThreadPoolExecutor(lanes) as pool:
            futures = {name: pool.submit(_one, work, name, out_root / name) for name in checked}
    return {name: future.result() for name, future in futures.items()}


def importance(toolchain: Toolchain, source: Path, out: Path, text: Path | None) -> Path:
    """Write the importance matrix: measured on a text, or uniform.

    Raises:
        NotFoundError: no such text.
        ToolError: the program failed, as when the text is shorter than two chunks.
    """
    if text is None:
        process.run(
            [sys.executable, uniform_imatrix.__file__, source, out],
            env={"PYTHONPATH": str(toolchain.gguf_py)},
        )
        return out
    if not text.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(text)),
            tr("name a plain text file with `--calibration`"),
        )
    command: list[str | Path] = [
        *(toolchain.program("llama-imatrix"), "-m", source, "-f", text, "-o", out),
        *("-c", "512", "--chunks", str(_CALIBRATION_CHUNKS), "--no-ppl"),
        *("-t", str(probe().cores)),
    ]
    process.run(command)
    return out


def require_gguf(folder: Path, manifest: Manifest) -> Path:
    """The artefact's GGUF, checked against its digest.

    Raises:
        NotFoundError: the file is gone.
        InputError: the file is not what the manifest says.
    """
    path = folder / GGUF_NAME
    if not path.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("make it again with `slipway convert`"),
        )
    if verify_files(folder, manifest):
        raise InputError(
            "gguf.damaged",
            tr("{path} is damaged: it differs from its manifest", path=str(path)),
            tr("make it again with `slipway convert`"),
        )
    return path


def _estimate(source: Path, name: str) -> int:
    """An upper bound of the result's size; the digit in a type's name is about its bits."""
    match = re.search(r"\d+", name)
    bits = int(match[0]) + 3 if match else 16
    return int(source.stat().st_size * min(1.0, bits / 16)) if name != "F32" else 2**31


def _lanes(types: int, source_bytes: int) -> int:
    """How many to run at once: each maps the source and writes part of it."""
    by_memory = int(available_memory_bytes() * 0.7 // max(1, source_bytes + 500_000_000))
    return max(1, min(types, by_memory, probe().cores))


@dataclass(frozen=True, slots=True)
class _Work:
    toolchain: Toolchain
    source: Path
    parent: Manifest
    log: EventLog
    threads: int
    lock: threading.Lock
    matrix: Path
    importance: str

    def progress(self, name: str, fraction: float) -> None:
        with self.lock:  # types report from several threads
            self.log.emit("progress", stage="quantize", quant=name, fraction=round(fraction, 3))


@dataclass(slots=True)
class _Report:
    """What the quantiser's log tells."""

    tensor_types: Counter[str]
    bpw: float | None = None
    fallback_tensors: int = 0

    def read(self, line: str) -> float | None:
        """Take in a line; the part done (0..1) if it tells."""
        if match := re.match(
            r"\[ *(\d+)/ *(\d+)\].*?type = +(\w+)(?:, converting to (\w+))?", line
        ):
            self.tensor_types[match[4] or match[3]] += 1
            return int(match[1]) / int(match[2])
        if match := re.search(r"quant size += .*\(([0-9.]+) BPW\)", line):
            self.bpw = float(match[1])
        if match := re.search(r"(\d+) of \d+ tensor\(s\) required fallback", line):
            self.fallback_tensors = int(match[1])
        return None


def _one(work: _Work, name: str, final: Path) -> Manifest:
    started = time.monotonic()
    report = _Report(Counter())

    def on_line(line: str) -> None:
        if (fraction := report.read(line)) is not None:
            work.progress(name, fraction)

    with new_folder(final) as folder:
        target = folder / GGUF_NAME
        command: list[str | Path] = [
            *(work.toolchain.program("llama-quantize"), "--imatrix", work.matrix),
            *(work.source, target, name, str(work.threads)),
        ]
        try:
            process.run(command, on_line=on_line)
        except ToolError as error:
            raise disk_full(error, final) from error
        size = target.stat().st_size
        return write_manifest(
            folder,
            "quant",
            f"{work.parent.name.rpartition('-')[0] or work.parent.name}-{name}",
            parents={"gguf": work.parent.digest},
            config={
                "type": Setting(name, "flag"),
                "importance": Setting(work.importance, "measured"),
            },
            versions={**package_versions(), "llama.cpp": work.toolchain.version},
            metrics={
                "size_bytes": size,
                "bpw": report.bpw,
                "seconds": round(time.monotonic() - started, 2),
            },
            notes={
                "tensor_types": dict(report.tensor_types.most_common()),
                "fallback_tensors": report.fallback_tensors,
                "tensors": report.tensor_types.total(),
            },
        )
