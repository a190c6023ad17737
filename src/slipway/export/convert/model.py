"""Hugging Face folder -> GGUF, by llama.cpp's own converter, proved equal before it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import Text
from slipway.core.manifest import Manifest, Setting, package_versions, write_manifest
from slipway.core.paths import Home
from slipway.export.convert.formats import gguf_size, native_outtype
from slipway.export.convert.options import Split, check_outtype, check_proof
from slipway.export.convert.scan import require_f16_range, scan_weights
from slipway.export.convert.space import require_space
from slipway.export.convert.tool import run_converter
from slipway.export.handover import require_convertible
from slipway.export.hf import parent_of, require_whole
from slipway.export.proof import prove_tokenizer
from slipway.export.replaced import replaced_tokenizer
from slipway.export.toolchain import Toolchain, require_toolchain

GGUF_NAME = "model.gguf"


def convert_to_gguf(
    model_dir: Path,
    out_dir: Path,
    *,
    outtype: str = "bf16",
    split: Split | None = None,
    proof: str = "tokens",
    home: Home,
    events: EventLog | None = None,
    say: Callable[[Text], None] = lambda text: None,
) -> Manifest:
    """Convert a model folder to `out_dir/model.gguf` and write the manifest (kind "gguf").

    Nothing is left in `out_dir` unless the file tokenizes and renders chats as the folder does
    (see `export.proof`).

    Args:
        model_dir: merged or base model: config.json, *.safetensors, tokenizer, chat template.
        outtype: number format of the matrices: "bf16", "f16", "f32", "q8_0", or "auto" for the
            one that they have (see `convert.formats.native_outtype`).
        split: write a set of files `model-00001-of-0000N.gguf` instead of one.
        proof: "tokens", or "logits": llama.cpp's probabilities of next tokens are compared with
            those of `transformers`, too.
        events: receives "progress" events with `stage` ("convert", "prove") and `fraction`.
        say: is told the folder's faults that do not hinder the conversion; they are kept in the
            manifest's notes, too.

    Raises:
        UsageError: unknown `outtype` or `proof`, or a `split` that the converter would not take.
        NotFoundError, InputError: the folder is no model, a weight file is cut short, or the
            converter would make another model of it (see `export.handover`).
        ResourceError: no toolchain, or too little disk.
        ToolError: the converter does not know the architecture, or failed.
        ProofError: the folder has two chat templates, a weight is not finite or too large for
            `outtype`, or the result would tokenize or render otherwise.
    """
    check_outtype(outtype)
    check_proof(proof)
    arguments = (split or Split()).arguments()
    require_whole(model_dir)
    warnings = [fault.message for fault in require_convertible(model_dir)]
    for warning in warnings:
        say(warning)
    if proof == "logits":
        _require_text_model(model_dir)
    chosen = native_outtype(model_dir) if outtype == "auto" else outtype
    setting = Setting(chosen, "measured" if outtype == "auto" else "flag")
    log = events or EventLog(None)
    job = _Job(model_dir, setting, arguments, proof == "logits", require_toolchain(home), log, say)
    require_space(out_dir, gguf_size(model_dir, chosen))
    scan = scan_weights(model_dir)
    if chosen == "f16":
        require_f16_range(model_dir, scan)
    return _convert(job, out_dir, warnings)


@dataclass(frozen=True, slots=True)
class _Job:
    model_dir: Path
    outtype: Setting
    split: list[str]
    logits: bool
    toolchain: Toolchain
    log: EventLog
    say: Callable[[Text], None]


def _convert(job: _Job, out_dir: Path, warnings: Sequence[Text]) -> Manifest:
    started = time.monotonic()
    with new_folder(out_dir) as folder:
        target = folder / GGUF_NAME
        job.log.emit("progress", stage="convert", fraction=0.0)
        options = ["--outfile", target, "--outtype", job.outtype.value, *job.split]
        try:
            run_converter(
                job.toolchain,
                job.toolchain.converter,
                [job.model_dir.resolve(), *options],
                source=job.model_dir,
                target=target,
                log=job.log,
            )
        finally:  # not before: what it loads would lie in memory beside the converter
            converted_s = time.monotonic() - started
            if (replaced := replaced_tokenizer(job.model_dir)) is not None:
                job.say(replaced.message)  # also why a conversion may have failed
                warnings = [*warnings, replaced.message]
        job.log.emit("progress", stage="prove", fraction=None)
        files = gguf_files(folder)
        proof = prove_tokenizer(files[0], job.model_dir, toolchain=job.toolchain)
        notes: dict[str, Any] = {"proof": proof.as_json()}
        if job.logits:
            notes["logits"] = _prove_logits(job, files[0])
        if warnings:
            notes["warnings"] = [one.en for one in warnings]
        metrics = {
            "size_bytes": sum(path.stat().st_size for path in files),
            "files": len(files),
            "seconds": round(time.monotonic() - started, 2),
            "convert_s": round(converted_s, 2),
            "proof_s": proof.seconds,
        }
        return _write_manifest(folder, job, metrics, notes)


def _require_text_model(model_dir: Path) -> None:
    from slipway.export.convert.logits_proof import require_text_model

    require_text_model(model_dir)


def _prove_logits(job: _Job, gguf: Path) -> dict[str, float]:
    # the merge, whose probes and logits these are, asks this package for room on the disk
    from slipway.export.convert.logits_proof import prove_model_logits

    return prove_model_logits(
        gguf, job.model_dir, outtype=job.outtype.value, toolchain=job.toolchain
    )


def _write_manifest(
    folder: Path, job: _Job, metrics: dict[str, Any], notes: dict[str, Any]
) -> Manifest:
    config = {"outtype": job.outtype}
    if job.split:
        config[job.split[0].removeprefix("--")] = Setting(job.split[1], "flag")
    return write_manifest(
        folder,
        "gguf",
        f"{job.model_dir.resolve().name}-{job.outtype.value}",
        parents=parent_of(job.model_dir),
        config=config,
        versions={**package_versions("transformers", "torch"), "llama.cpp": job.toolchain.version},
        metrics=metrics,
        notes=notes,
    )


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF that the converter wrote into a folder: one file, or a set's parts in order."""
    whole = folder / GGUF_NAME
    return [whole] if whole.is_file() else sorted(folder.glob("*-of-*.gguf"))
