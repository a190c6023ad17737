"""GGUF -> quantised GGUF, several types at once, by llama.cpp's own quantiser."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import ResourceError, SlipwayError, ToolError, UsageError
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.hardware import available_memory_bytes, probe
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, Setting, package_versions, write_manifest
from slipway.core.paths import Home
from slipway.export.convert import GGUF_NAME, disk_full, require_space
from slipway.export.quantise import importance
from slipway.export.quantise.importance import Matrix
from slipway.export.quantise.options import Options
from slipway.export.quantise.plan import Plan, fallbacks_json, plan_types
from slipway.export.quantise.source import read_source, require_files
from slipway.export.quantise.type_names import check_types, quant_types
from slipway.export.toolchain import Toolchain, require_toolchain

_SPARE_BYTES = 16_000_000  # manifests, and what others write meanwhile


@dataclass(frozen=True, slots=True)
class _Input:
    toolchain: Toolchain
    sources: list[Path]
    parent: Manifest
    types: list[str]
    options: Options


def quantize(
    gguf_dir: Path,
    types: Sequence[str],
    out_root: Path,
    *,
    home: Home,
    events: EventLog | None = None,
    calibration: Path | None = None,
    imatrix: Path | None = None,
    options: Options | None = None,
) -> dict[str, Manifest]:
    """Quantise `gguf_dir/model.gguf` to each type, into `out_root/<LABEL>/model.gguf`.

    The label is the type, with a mark behind it when the options change its mixture. Types run at
    the same time as far as cores and memory allow. Each folder appears complete or not at all;
    those already finished stay when another fails. The file is byte for byte what `llama-quantize`
    makes with the same arguments in a folder that holds the matrix as `imatrix.gguf`.

    Args:
        gguf_dir: artefact of kind "gguf" ("quant" too where requantising is allowed).
        types: names such as "Q4_K_M"; see `quant_types`.
        events: receives "progress" events with `stage` "quantize", `quant` and `fraction`.
        calibration: UTF-8 text like what the model will see (not the text it is tested on); the
            importance of each weight is measured on it.
        imatrix: an importance matrix: folder of an "imatrix" artefact, or a file. With neither,
            every weight counts the same (ADR 0005).
        options: overrides of single tensors and so on.

    Returns:
        Label -> manifest (kind "quant") with metrics size_bytes, bpw (bits per weight), seconds,
        and notes `tensor_types` (how many tensors have which type), `fallbacks` (tensor, wanted,
        got, why: rows that do not divide into the type's blocks), `fallback_tensors` (how many),
        `overrides` (tensors that each one hit) and `options`.

    Raises:
        UsageError: unknown type, or an option that does nothing.
        NotFoundError, InputError: no such artefact, or its file is damaged or quantised already.
        ResourceError: no toolchain, or the disk is full.
        ToolError: the quantiser failed.
    """
    found = _checked(gguf_dir, types, home, options or Options(), bool(calibration or imatrix))
    log = events or EventLog(None)
    lanes = _lanes(len(found.types), sum(path.stat().st_size for path in found.sources))
    # half as many again as there are cores: types differ, and the last one has the cores alone
    threads = found.options.threads or max(1, round(1.5 * probe().cores / lanes))
    with tempfile.TemporaryDirectory(prefix="slipway-imatrix-") as scratch:
        matrix = _matrix(found, Path(scratch), calibration, imatrix)
        plans = _plans(found, matrix)
        require_space(out_root, sum(p.size_bytes for p in plans.values()) + _SPARE_BYTES)
        work = _Work(found, log, threads, threading.Lock(), matrix, Path(scratch))
        with ThreadPoolExecutor(lanes) as pool:
            futures = {
                label: pool.submit(_one, work, plan, out_root / label)
                for label, plan in ((found.options.label(n), p) for n, p in plans.items())
            }
    return {label: future.result() for label, future in futures.items()}


def plan_quantize(
    gguf_dir: Path,
    types: Sequence[str],
    *,
    home: Home,
    options: Options | None = None,
    calibrated: bool = False,
) -> dict[str, Plan]:
    """What `quantize` would make, by label: tensor types, exact sizes, what the overrides hit.

    Args:
        calibrated: whether there will be a measured matrix; its own name can change the size by
            a few bytes.

    Raises:
        the same errors as `quantize`, before anything is made.
    """
    found = _checked(gguf_dir, types, home, options or Options(), calibrated)
    with tempfile.TemporaryDirectory(prefix="slipway-imatrix-") as scratch:
        plans = _plans(found, _matrix(found, Path(scratch), None, None))
    return {found.options.label(name): plan for name, plan in plans.items()}


def _checked(
    gguf_dir: Path, types: Sequence[str], home: Home, options: Options, calibrated: bool
) -> _Input:
    toolchain = require_toolchain(home)
    checked = check_types(types, quant_types(toolchain), calibrated=calibrated)
    parent = read_source(gguf_dir, allow_quantised=options.allow_requantize)
    sources = require_files(gguf_dir, parent)
    if options.keep_split and len(sources) == 1:
        raise UsageError(
            "quantize.not_split",
            tr("{path} is one file: there is no split to keep", path=str(sources[0])),
            tr("leave out `--keep-split`"),
        )
    found = _Input(toolchain, sources, parent, checked, options)
    plan_types(toolchain, sources, checked[:1], options, None)  # wrong options end here
    return found


def _matrix(
    found: _Input, scratch: Path, calibration: Path | None, imatrix: Path | None
) -> Matrix | None:
    if found.options.without_imatrix:
        return None
    if imatrix:
        return importance.given(found.toolchain, imatrix, scratch)
    if calibration:
        return importance.measured(found.toolchain, found.sources[0], scratch, calibration)
    return importance.uniform(found.toolchain, found.sources, scratch)


def _plans(found: _Input, matrix: Matrix | None) -> dict[str, Plan]:
    pair = (matrix.path, matrix.facts) if matrix else None
    return plan_types(found.toolchain, found.sources, found.types, found.options, pair)


def _lanes(types: int, source_bytes: int) -> int:
    """How many to run at once: each maps the source and writes part of it."""
    by_memory = int(available_memory_bytes() * 0.7 // max(1, source_bytes + 500_000_000))
    return max(1, min(types, by_memory, probe().cores))


@dataclass(frozen=True, slots=True)
class _Work:
    input: _Input
    log: EventLog
    threads: int
    lock: threading.Lock
    matrix: Matrix | None
    scratch: Path

    def progress(self, name: str, fraction: float) -> None:
        with self.lock:  # types report from several threads
            self.log.emit("progress", stage="quantize", quant=name, fraction=round(fraction, 3))


def _one(work: _Work, plan: Plan, final: Path) -> Manifest:
    started = time.monotonic()
    options = work.input.options

    def on_line(line: str) -> None:
        if match := re.match(r"\[ *(\d+)/ *(\d+)\]", line):
            work.progress(final.name, int(match[1]) / int(match[2]))

    with new_folder(final) as folder:
        matrix: list[str | Path] = ["--imatrix", work.matrix.path.name] if work.matrix else []
        command: list[str | Path] = [
            *(work.input.toolchain.program("llama-quantize"), *options.arguments(), *matrix),
            *(work.input.sources[0].absolute(), (folder / GGUF_NAME).absolute(), plan.type),
            str(work.threads),
        ]
        try:
            process.run(command, on_line=on_line, cwd=work.scratch)
        except ToolError as error:
            raise _disk_full(error, folder, final, plan) from error
        size = sum(path.stat().st_size for path in folder.glob("*.gguf"))
        return write_manifest(
            folder,
            "quant",
            f"{work.input.parent.name.rpartition('-')[0] or work.input.parent.name}-{final.name}",
            parents=_parents(work),
            config={
                "type": Setting(plan.type, "flag"),
                "importance": Setting(work.matrix.origin if work.matrix else "none", "measured"),
                **{name: Setting(value, "flag") for name, value in options.as_json().items()},
            },
            versions={**package_versions(), "llama.cpp": work.input.toolchain.version},
            metrics={
                "size_bytes": size,
                "planned_bytes": plan.size_bytes,
                "bpw": round(plan.bpw, 2),
                "seconds": round(time.monotonic() - started, 2),
            },
            notes={
                "tensor_types": dict(Counter(t.type.lower() for t in plan.tensors).most_common()),
                "fallback_tensors": len(plan.fallbacks),
                "fallbacks": fallbacks_json(plan.fallbacks),
                "tensors": len(plan.tensors),
                "overrides": plan.hits,
            },
        )


def _parents(work: _Work) -> dict[str, str]:
    parents = {"gguf": work.input.parent.digest}
    if work.matrix and work.matrix.digest:
        parents["imatrix"] = work.matrix.digest
    return parents


def _disk_full(error: ToolError, folder: Path, final: Path, plan: Plan) -> SlipwayError:
    """The tool says only that a stream failed; how much is free tells why."""
    written = sum(path.stat().st_size for path in folder.glob("*.gguf"))
    missing = plan.size_bytes - written
    if "iostream error" in error.message_en and shutil.disk_usage(folder).free < max(1, missing):
        return ResourceError(
            "disk.full",
            tr("no space left on the disk that holds {path}", path=str(final)),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )
    return disk_full(error, final)
