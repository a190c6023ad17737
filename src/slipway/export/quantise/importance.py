"""The importance matrix that a run is given: a uniform one, one measured on a text, or a file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core import process
from slipway.core.errors import InputError, NotFoundError
from slipway.core.files import write_json
from slipway.core.hardware import probe
from slipway.core.i18n import tr
from slipway.core.manifest import read_manifest
from slipway.export.quantise import uniform_imatrix
from slipway.export.quantise.header import read_header
from slipway.export.quantise.plan import MATRIX_NAME, MatrixFacts
from slipway.export.toolchain import Toolchain

CALIBRATION_CHUNKS = 24  # of 512 tokens
TEXT_NAME = "calibration.txt"
SHAPES_NAME = "shapes.json"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix beside which the quantiser runs.

    Attributes:
        path: the file, named `MATRIX_NAME`.
        origin: what a reader should know of it: "uniform", "measured on NAME" or "file NAME".
        facts: what of it is written into the result.
        digest: of the imatrix artefact it comes from.
    """

    path: Path
    origin: str
    facts: MatrixFacts
    digest: str | None = None


def uniform(toolchain: Toolchain, sources: Sequence[Path], folder: Path) -> Matrix:
    """Write a matrix in which every weight counts the same.

    Args:
        sources: the model's files, one unless it is split.
    """
    out = folder / MATRIX_NAME
    shapes = {name: s for path in sources for name, s in read_header(path).shapes.items()}
    write_json(folder / SHAPES_NAME, shapes)
    process.run(
        [sys.executable, uniform_imatrix.__file__, folder / SHAPES_NAME, out],
        env={"PYTHONPATH": str(toolchain.gguf_py)},
    )
    return Matrix(out, "uniform", MatrixFacts("uniform"))


def measured(
    toolchain: Toolchain, source: Path, folder: Path, text: Path, *, extra: tuple[str, ...] = ()
) -> Matrix:
    """Measure a matrix on a text.

    The tool writes the text's path into the matrix, and from there into each result: it is given
    a fixed name, so that equal texts give equal files and no path of this machine gets out.

    Raises:
        NotFoundError: no such text.
        ToolError: the program failed, as when the text is shorter than two chunks.
    """
    if not text.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(text)),
            tr("name a plain text file with `--calibration`"),
        )
    if text.absolute() != (folder / TEXT_NAME).absolute():
        shutil.copyfile(text, folder / TEXT_NAME)
    command: list[str | Path] = [
        *(toolchain.program("llama-imatrix"), "-m", source.absolute(), "-f", TEXT_NAME),
        *("-o", MATRIX_NAME, "-c", "512", "--no-ppl", "-t", str(probe().cores)),
        *(extra or ("--chunks", str(CALIBRATION_CHUNKS))),
    ]
    process.run(command, cwd=folder)
    return Matrix(folder / MATRIX_NAME, f"measured on {text.name}", MatrixFacts(TEXT_NAME))


def given(toolchain: Toolchain, path: Path, folder: Path) -> Matrix:
    """Take a matrix from an imatrix artefact's folder, or from a file.

    Raises:
        NotFoundError, InputError: no such artefact or file, or it is no matrix.
    """
    digest = None
    file = path
    if path.is_dir():
        digest = read_manifest(path, kind="imatrix").digest
        file = path / MATRIX_NAME
    if not file.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(file)),
            tr("measure one with `slipway imatrix GGUF --text FILE`"),
        )
    target = folder / MATRIX_NAME
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)
    return Matrix(target, f"file {path.name}", _facts(toolchain, target, path), digest)


_READ_FACTS = """
import sys, json, gguf
reader = gguf.GGUFReader(sys.argv[1])
names = reader.get_field("imatrix.datasets")
chunks = reader.get_field("imatrix.chunk_count")
print(json.dumps([names.contents()[0] if names else "", int(chunks.contents()) if chunks else 0]))
"""


def _facts(toolchain: Toolchain, file: Path, path: Path) -> MatrixFacts:
    import json

    from slipway.core.errors import ToolError

    command: list[str | Path] = [sys.executable, "-c", _READ_FACTS, file]
    try:
        answer = process.run(command, env={"PYTHONPATH": str(toolchain.gguf_py)})
        dataset, chunks = json.loads(answer.strip().splitlines()[-1])
    except (ToolError, ValueError, IndexError) as error:
        raise InputError(
            "imatrix.unreadable",
            tr("{path} is no importance matrix in GGUF form", path=str(path)),
            tr("measure one with `slipway imatrix GGUF --text FILE`"),
        ) from error
    return MatrixFacts(str(dataset), chunks > 0)
