"""An importance matrix measured on the training data or on a text, with what it covers.

llama-imatrix sums the squares of each input column of every weight while the model reads; the
quantiser then rounds columns with large inputs more carefully. It helps where the text is like what
the model will see, so rows of a dataset are rendered as the model serves them, control tokens and
all.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.core import process
from slipway.core.errors import InputError, NotFoundError, UsageError
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import (
    FILE_NAME,
    Manifest,
    Setting,
    package_versions,
    read_manifest,
    write_manifest,
)
from slipway.core.paths import Home
from slipway.datasets import Sample, dataset_digest, load_dataset
from slipway.export.coverage import Coverage, coverage_of
from slipway.export.eval_inputs import spread
from slipway.export.quantise.plan import MATRIX_NAME
from slipway.export.quantise.source import read_source, require_files
from slipway.export.server import Server, served
from slipway.export.toolchain import Toolchain, require_toolchain

_TEXT = "calibration.txt"  # the tool writes this name into the matrix, and no path of the machine
_FEWEST_CHUNKS = 2
_ROWS_PER_CHUNK = 12  # rows are seldom shorter than a twelfth of a chunk


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """What a matrix is measured on.

    Attributes:
        texts: plain UTF-8 texts.
        datasets: dataset folders (their train split) or files of rows; rows are taken evenly over
            the whole when there are more than `chunks` can hold.
        chunks: most chunks that are read.
        context: tokens of a chunk.
        output: collect data for the output tensor too.
    """

    texts: tuple[Path, ...] = ()
    datasets: tuple[Path, ...] = ()
    chunks: int = 100
    context: int = 512
    output: bool = False


def measure_imatrix(
    gguf_dir: Path,
    out_dir: Path,
    plan: CalibrationPlan,
    *,
    home: Home,
    events: EventLog | None = None,
) -> Manifest:
    """Measure a matrix into `out_dir/imatrix.gguf` with its manifest (kind "imatrix").

    What is there already, of the same model, data and settings, is not measured again.

    Args:
        gguf_dir: unquantised GGUF artefact.
        events: receives "progress" with `stage` "imatrix", `part` ("text", "measure") and `eta_s`.

    Returns:
        The manifest; `notes.coverage` is a `Coverage`, `metrics` has tokens and seconds.

    Raises:
        UsageError: neither text nor dataset.
        NotFoundError, InputError: something is not there, damaged, quantised or too short.
        ResourceError, ToolError: no toolchain, or the program failed.
    """
    if not plan.texts and not plan.datasets:
        raise UsageError(
            "imatrix.no_text",
            tr("a matrix is measured on a text or on rows, and neither is given"),
            tr("give rows with `--data DATASET`, or a text with `--text FILE`"),
        )
    toolchain = require_toolchain(home)
    parent = read_source(gguf_dir, allow_quantised=False)
    sources = require_files(gguf_dir, parent)
    log = events or EventLog(None)
    parents = {"gguf": parent.digest} | _digests(plan)
    settings = _settings(plan)
    if kept := _kept(out_dir, parents, settings, toolchain):
        return kept
    job = _Job(toolchain, sources, plan, log)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slipway-imatrix-") as name:
        tokens, chunks = job.measure(Path(name))
        coverage = coverage_of(Path(name) / MATRIX_NAME, sources)
        with new_folder(out_dir) as folder:
            shutil.copyfile(Path(name) / MATRIX_NAME, folder / MATRIX_NAME)
            return write_manifest(
                folder,
                "imatrix",
                out_dir.name,
                parents=parents,
                config={key: Setting(value, "flag") for key, value in settings.items()},
                versions={**package_versions(), "llama.cpp": toolchain.version},
                metrics={
                    "tokens": chunks * plan.context,
                    "text_tokens": tokens,
                    "chunks": chunks,
                    "seconds": round(time.monotonic() - started, 2),
                },
                notes={"coverage": asdict(coverage)},
            )


def coverage_in(manifest: Manifest) -> Coverage:
    """The coverage that a matrix's manifest tells."""
    return Coverage(**manifest.notes["coverage"])


def _settings(plan: CalibrationPlan) -> dict[str, Any]:
    return {
        "chunks": plan.chunks,
        "context": plan.context,
        "output": plan.output,
        "texts": [path.name for path in plan.texts],
        "datasets": [path.name for path in plan.datasets],
    }


def _digests(plan: CalibrationPlan) -> dict[str, str]:
    found = {}
    for number, path in enumerate(plan.texts):
        if not path.is_file():
            raise NotFoundError(
                "file.not_found",
                tr("{path} does not exist", path=str(path)),
                tr("name a plain text file with `--text`"),
            )
        found[f"text:{number}"] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    for number, path in enumerate(plan.datasets):
        found[f"dataset:{number}"] = dataset_digest(path)
    return found


def _kept(
    out_dir: Path, parents: dict[str, str], settings: dict[str, Any], toolchain: Toolchain
) -> Manifest | None:
    if not (out_dir / FILE_NAME).is_file() or not (out_dir / MATRIX_NAME).is_file():
        return None
    manifest = read_manifest(out_dir)
    same = (
        manifest.kind == "imatrix"
        and manifest.parents == parents
        and {key: setting.value for key, setting in manifest.config.items()} == settings
        and manifest.versions.get("llama.cpp") == toolchain.version
    )
    return manifest if same else None


@dataclass(frozen=True, slots=True)
class _Job:
    toolchain: Toolchain
    sources: list[Path]
    plan: CalibrationPlan
    log: EventLog

    def measure(self, work: Path) -> tuple[int, int]:
        """Write `work/imatrix.gguf`; the text's tokens, and the chunks that were read."""
        plan = self.plan
        self.log.emit("progress", stage="imatrix", part="text", eta_s=None)
        tokens = self._write_text(work / _TEXT)
        chunks = min(plan.chunks, tokens // plan.context)
        if chunks < _FEWEST_CHUNKS:
            raise InputError(
                "imatrix.too_short",
                tr(
                    "the text has {tokens} tokens; {needed} are needed",
                    tokens=tokens,
                    needed=_FEWEST_CHUNKS * plan.context,
                ),
                tr("give more rows or a longer text, or smaller chunks with `--context`"),
            )
        self.log.emit("progress", stage="imatrix", part="measure", eta_s=None)
        command: list[str | Path] = [
            *(self.toolchain.program("llama-imatrix"), "-m", self.sources[0].absolute()),
            *("-f", _TEXT, "-o", MATRIX_NAME, "-c", str(plan.context), "--chunks", str(chunks)),
            *("--no-ppl", "--parse-special", "-t", str(probe().cores)),
            *(["--process-output"] if plan.output else []),
        ]
        process.run(command, cwd=work, on_line=self._on_line)
        return tokens, chunks

    def _on_line(self, line: str) -> None:
        if match := re.search(r"seconds per pass - ETA (?:(\d+) hours )?([\d.]+) minutes", line):
            left = 3600 * int(match[1] or 0) + 60 * float(match[2])
            self.log.emit("progress", stage="imatrix", part="measure", eta_s=round(left, 1))

    def _write_text(self, path: Path) -> int:
        """Write texts, then rows as the model's template renders them; returns the tokens."""
        arguments = ["-c", "512", "-np", "1", "--no-warmup", "--jinja"]
        with served(self.toolchain, self.sources[0], arguments) as server:
            pieces = [file.read_text(encoding="utf-8").strip() for file in self.plan.texts]
            for dataset in self.plan.datasets:
                rows = spread(load_dataset(dataset), self.plan.chunks * _ROWS_PER_CHUNK)
                pieces += _rendered(server, rows)
            text = "\n".join(pieces)
            path.write_text(text, encoding="utf-8")
            body = {"content": text, "add_special": True, "parse_special": True}
            return len(server.post("/tokenize", body)["tokens"])


def _rendered(server: Server, rows: Sequence[Sample]) -> list[str]:
    """Each conversation as the engine reads and writes it: the prompt, the answer, its end."""
    end = str(server.get("/props").get("eos_token", ""))
    found = []
    for row in rows:
        turns = [{"role": m.role, "content": m.content} for m in row.messages]
        last = turns.pop() if turns[-1]["role"] == "assistant" else None
        prompt = server.post("/apply-template", {"messages": turns})["prompt"] if turns else ""
        found.append(prompt + (last["content"] + end if last else ""))
    return found
