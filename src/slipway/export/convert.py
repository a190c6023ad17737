"""Hugging Face folder -> GGUF, by llama.cpp's own converter, proved equal before it is kept."""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path
from typing import Literal, get_args

from slipway.core import process
from slipway.core.errors import ResourceError, SlipwayError, ToolError, UsageError, nearest
from slipway.core.events import EventLog
from slipway.core.files import new_folder
from slipway.core.i18n import tr
from slipway.core.manifest import Manifest, Setting, package_versions, write_manifest
from slipway.core.paths import Home
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
) -> Manifest:
    """Convert a model folder to `out_dir/model.gguf` and write the manifest (kind "gguf").

    Nothing is left in `out_dir` unless the file tokenizes and renders chats as the folder does
    (see `export.proof`).

    Args:
        model_dir: merged or base model: config.json, *.safetensors, tokenizer, chat template.
        outtype: number format of the weights: "bf16", "f16", "f32" or "q8_0".
        events: receives "progress" events with `stage` ("convert", "prove") and `fraction`.

    Raises:
        UsageError: unknown `outtype`.
        NotFoundError, InputError: the folder is no model, or a weight file is cut short.
        ResourceError: no toolchain, or too little disk.
        ToolError: the converter does not know the architecture, or failed.
        ProofError: the result would tokenize or render otherwise.
    """
    _check_outtype(outtype)
    require_whole(model_dir)
    toolchain = require_toolchain(home)
    log = events or EventLog(None)
    started = time.monotonic()
    with new_folder(out_dir) as folder:
        target = folder / GGUF_NAME
        require_space(out_dir, _weight_bytes(model_dir, outtype))
        log.emit("progress", stage="convert", fraction=0.0)
        _run_converter(toolchain, model_dir, target, outtype, log)
        converted_s = time.monotonic() - started
        log.emit("progress", stage="prove", fraction=None)
        proof = prove_tokenizer(target, model_dir, toolchain=toolchain)
        return write_manifest(
            folder,
            "gguf",
            f"{model_dir.resolve().name}-{outtype}",
            parents=parent_of(model_dir),
            config={"outtype": Setting(outtype, "flag")},
            versions={
                **package_versions("transformers", "torch"),
                "llama.cpp": toolchain.version,
            },
            metrics={
                "size_bytes": target.stat().st_size,
                "seconds": round(time.monotonic() - started, 2),
                "convert_s": round(converted_s, 2),
                "proof_s": proof.seconds,
            },
            notes={"proof": proof.as_json()},
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


def require_space(folder: Path, needed: int) -> None:
    """Raise when the disk that will hold `folder` has less than `needed` bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            "disk.full",
            tr(
                "{path} has {free} MB free, but {needed} MB are needed",
                path=str(existing),
                free=free // 1_000_000,
                needed=needed // 1_000_000,
            ),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )


def disk_full(error: ToolError, folder: Path) -> SlipwayError:
    """The tool's error, or the right one when the tool ended because the disk is full."""
    text = error.message_en
    if re.search(r"No space left|ENOSPC|Errno 28|failed to write|Disk quota", text):
        return ResourceError(
            "disk.full",
            tr("no space left on the disk that holds {path}", path=str(folder)),
            tr("free some space, or set SLIPWAY_HOME to a larger disk, then run the command again"),
        )
    return error


def _run_converter(
    toolchain: Toolchain, model_dir: Path, target: Path, outtype: str, log: EventLog
) -> None:
    def on_line(line: str) -> None:
        if percents := re.findall(r"Writing: +(\d+)%", line):
            log.emit("progress", stage="convert", fraction=int(percents[-1]) / 100)

    command: list[str | Path] = [
        *(sys.executable, toolchain.converter, model_dir.resolve()),
        *("--outfile", target, "--outtype", outtype),
    ]
    try:
        process.run(
            command,
            env={"PYTHONPATH": str(toolchain.gguf_py), "HF_HUB_OFFLINE": "1"},
            on_line=on_line,
        )
    except ToolError as error:
        raise _converter_error(error, model_dir, target) from error
    if not target.is_file():
        raise ToolError(
            "convert.failed", tr("the converter wrote no file for {folder}", folder=str(model_dir))
        )


def _converter_error(error: ToolError, model_dir: Path, target: Path) -> SlipwayError:
    text = error.message_en
    if match := re.search(r"Model (\w+) is not supported", text):
        return ToolError(
            "convert.unsupported",
            tr("llama.cpp does not know the architecture `{name}`", name=match[1]),
            tr("use a base model that llama.cpp supports"),
        )
    if "pre-tokenizer was not recognized" in text:
        return ToolError(
            "convert.unsupported",
            tr("llama.cpp does not know the tokenizer of {folder}", folder=str(model_dir)),
            tr("use a base model that llama.cpp supports"),
        )
    return disk_full(error, target)
