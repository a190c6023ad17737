"""Running llama.cpp's converter scripts, and what their failures mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway.core import process
from slipway.core.errors import InputError, SlipwayError, ToolError
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.export.convert.space import disk_full
from slipway.export.toolchain import Toolchain


def run_converter(
    toolchain: Toolchain,
    script: Path,
    arguments: Sequence[str | Path],
    *,
    source: Path,
    target: Path,
    log: EventLog,
) -> None:
    """Run a converter script of the toolchain without a network.

    Args:
        source: the folder that is converted, for messages.
        target: the file that must stand there afterwards (or, of a split set, its parts).
        log: receives "progress" events of stage "convert".

    Raises:
        ToolError: it failed, or does not know the architecture or the tokenizer.
        InputError: the folder is one that it cannot read.
        ResourceError: the disk is full.
    """

    def on_line(line: str) -> None:
        if percents := re.findall(r"Writing: +(\d+)%", line):
            log.emit("progress", stage="convert", fraction=int(percents[-1]) / 100)

    try:
        process.run(
            [sys.executable, script, *arguments],
            env={"PYTHONPATH": str(toolchain.gguf_py), "HF_HUB_OFFLINE": "1"},
            on_line=on_line,
        )
    except ToolError as error:
        raise _explained(error, source, target) from error
    if not target.is_file() and not any(target.parent.glob(f"{target.stem}-*-of-*.gguf")):
        raise ToolError(
            "convert.failed", tr("the converter wrote no file for {folder}", folder=str(source))
        )


def _explained(error: ToolError, source: Path, target: Path) -> SlipwayError:
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
            tr("llama.cpp does not know the tokenizer of {folder}", folder=str(source)),
            tr(
                "keep the base's tokenizer and add tokens at its end, or use a newer llama.cpp "
                "that knows it"
            ),
        )
    if match := re.search(r"Quant method is not yet supported: '([^']+)'", text):
        return InputError(
            "convert.quantised",
            tr("the weights in {folder} are quantised ({method})", folder=source, method=match[1]),
            tr("convert the full-precision model; quantise the GGUF with `slipway quantize`"),
        )
    if match := re.search(r"Can not map tensor '([^']+)'", text):
        return InputError(
            "convert.unknown_tensor",
            tr(
                "{folder} holds a weight that its architecture does not have: `{name}`",
                folder=source,
                name=match[1],
            ),
            tr("convert a model folder as `save_pretrained` or `slipway merge` writes it"),
        )
    if "assert max(tokenizer.vocab.values()) < vocab_size" in text:
        return InputError(
            "convert.vocabulary_too_large",
            tr(
                "as transformers reads it, the tokenizer in {folder} has more tokens than the "
                "model has embeddings",
                folder=source,
            ),
            tr("take the tokenizer of the base, or resize the embeddings and train them"),
        )
    return disk_full(error, target)
