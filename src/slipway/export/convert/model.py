"""Hugging Face folder -> GGUF, by llama.cpp's own converter, proved equal before it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from slipway.core.errors import UsageError, nearest
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import Text, tr
from slipway.core.manifest import Manifest, Setting, package_versions, write_manifest
from slipway.core.paths import Home
from slipway.export.convert.space import require_space
from slipway.export.convert.tool import run_converter
from slipway.export.handover import require_convertible
from slipway.export.hf import parent_of, require_whole
from slipway.export.proof import prove_tokenizer
from slipway.export.toolchain import Toolchain, require_toolchain

OutType = Literal["bf16", "f16", "f32", "q8_0"]
GGUF_NAME = "model.gguf"


def convert_to_gguf(
    model_dir: Path,
    out_dir: Path,
    *,
    outtype: str = "bf16",
    home: Home,
    events: EventLog | None = None,
    say: Callable[[Text], None] = lambda text: None,
) -> Manifest:
    """Convert a model folder to `out_dir/model.gguf` and write the manifest (kind "gguf").

    Nothing is left in `out_dir` unless the file tokenizes and renders chats as the folder does
    (see `export.proof`).

    Args:
        model_dir: merged or base model: config.json, *.safetensors, tokenizer, chat template.
        outtype: number format of the weights: "bf16", "f16", "f32" or "q8_0".
        events: receives "progress" events with `stage` ("convert", "prove") and `fraction`.
        say: is told the folder's faults that do not hinder the conversion; they are kept in the
            manifest's notes, too.

    Raises:
        UsageError: unknown `outtype`.
        NotFoundError, InputError: the folder is no model, a weight file is cut short, or the
            converter would make another model of it (see `export.handover`).
        ResourceError: no toolchain, or too little disk.
        ToolError: the converter does not know the architecture, or failed.
        ProofError: the folder has two chat templates, or the result would tokenize or render
            otherwise.
    """
    _check_outtype(outtype)
    require_whole(model_dir)
    warnings = [fault.message for fault in require_convertible(model_dir)]
    for warning in warnings:
        say(warning)
    return _convert(
        model_dir, out_dir, outtype, require_toolchain(home), events or EventLog(None), warnings
    )


def _convert(
    model_dir: Path,
    out_dir: Path,
    outtype: str,
    toolchain: Toolchain,
    log: EventLog,
    warnings: Sequence[Text],
) -> Manifest:
    started = time.monotonic()
    with new_folder(out_dir) as folder:
        target = folder / GGUF_NAME
        require_space(out_dir, _weight_bytes(model_dir, outtype))
        log.emit("progress", stage="convert", fraction=0.0)
        run_converter(
            toolchain,
            toolchain.converter,
            [model_dir.resolve(), "--outfile", target, "--outtype", outtype],
            source=model_dir,
            target=target,
            log=log,
        )
        converted_s = time.monotonic() - started
        log.emit("progress", stage="prove", fraction=None)
        proof = prove_tokenizer(target, model_dir, toolchain=toolchain)
        notes: dict[str, Any] = {"proof": proof.as_json()}
        if warnings:
            notes["warnings"] = [one.en for one in warnings]
        metrics = {
            "size_bytes": target.stat().st_size,
            "seconds": round(time.monotonic() - started, 2),
            "convert_s": round(converted_s, 2),
            "proof_s": proof.seconds,
        }
        return _write_manifest(folder, model_dir, outtype, toolchain, metrics, notes)


def _write_manifest(
    folder: Path,
    model_dir: Path,
    outtype: str,
    toolchain: Toolchain,
    metrics: dict[str, Any],
    notes: dict[str, Any],
) -> Manifest:
    return write_manifest(
        folder,
        "gguf",
        f"{model_dir.resolve().name}-{outtype}",
        parents=parent_of(model_dir),
        config={"outtype": Setting(outtype, "flag")},
        versions={**package_versions("transformers", "torch"), "llama.cpp": toolchain.version},
        metrics=metrics,
        notes=notes,
    )


def _check_outtype(outtype: str) -> None:
    known = get_args(OutType)
    if outtype not in known:
        close = nearest(outtype.lower(), known)
        raise UsageError(
            "convert.unknown_type",
            tr("unknown GGUF type `{name}`", name=outtype),
            tr("use one of {names}", names=", ".join(close or known)),
        )


def _weight_bytes(model_dir: Path, outtype: str) -> int:
    """About how large the GGUF will be, taking the folder's weights as 16 bits each."""
    size = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    return size * {"f32": 2, "q8_0": 1}.get(outtype, 1) + 16_000_000
