"""llama.cpp's source tree, taken from the source distribution of `llama-cpp-python` on PyPI.

That archive carries the complete tree of one commit, so that one package index (or a mirror of it)
is enough to build the tools.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from slipway.core.download import OnBytes, RemoteFile, download, pypi_file
from slipway.core.errors import ProofError
from slipway.core.files import new_folder
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.toolchain.model import CONVERTER, LLAMA_COMMIT, LORA_CONVERTER

PROJECT = "llama-cpp-python"
ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"
ARCHIVE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ARCHIVE_BYTES = 76_589_250

# not needed to build the tools or to convert: test vocabularies, documents, pictures, tests
_LEFT_OUT = {".git", ".github", "models", "docs", "tests", "benches", "media", "examples", "pocs"}
_TREE = ("vendor", "llama.cpp")
_CONVERTER_PARTS = (CONVERTER, LORA_CONVERTER, "conversion", "gguf-py", "LICENSE")


def fetch_archive(home: Home, on_progress: OnBytes | None = None) -> Path:
    """The archive in the cache, fetched and checked against the pinned digest when it is not there.

    Raises:
        UnreachableError, NotFoundError, ProofError, ResourceError: see `core.download`.
    """
    path = home.cache / "downloads" / ARCHIVE
    if path.is_file() and path.stat().st_size == ARCHIVE_BYTES:
        remote = RemoteFile(ARCHIVE, "", ARCHIVE_SHA256, ARCHIVE_BYTES)
    else:
        remote = pypi_file(PROJECT, ARCHIVE)
    if remote.sha256 != ARCHIVE_SHA256:
        raise ProofError(
            "toolchain.wrong_digest",
            tr(
                "the index offers another {file} than the one Slipway was tested with", file=ARCHIVE
            ),
            tr(
                "choose another with SLIPWAY_PYPI_INDEX, for example {url}",
                url="https://pypi.org/simple/",
            ),
        )
    return download(
        remote.url, path, sha256=ARCHIVE_SHA256, size=ARCHIVE_BYTES, on_progress=on_progress
    )


def source_tree(home: Home) -> Path:
    """Where the extracted tree lies while a build needs it."""
    return home.cache / "llama.cpp" / f"source-{LLAMA_COMMIT}"


def extract(archive: Path, final: Path, *, converter_only: bool = False) -> Path:
    """Take llama.cpp's tree out of the archive to `final`, unless it is there.

    Args:
        converter_only: only the converters and what they import.

    Only regular files below `vendor/llama.cpp` are written; links, devices and names that lead
    elsewhere are refused, whatever the archive says.

    Raises:
        ProofError: the archive holds something else.
    """
    if (final / CONVERTER).is_file():
        return final
    with new_folder(final) as folder, tarfile.open(archive) as tar:
        for member in tar:
            inside = _path_in_tree(member.name)
            if inside is None or (converter_only and inside[0] not in _CONVERTER_PARTS):
                continue
            if not member.isfile():
                if member.isdir():
                    continue
                raise _unsafe(archive, member.name)
            target = folder.joinpath(*inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
        if not (folder / CONVERTER).is_file():
            raise _unsafe(archive, CONVERTER)
    return final


def _path_in_tree(name: str) -> tuple[str, ...] | None:
    """The part of an archive name below llama.cpp's tree; None for what is not wanted."""
    parts = PurePosixPath(name).parts
    if parts[1:3] != _TREE or len(parts) < 4 or parts[3] in _LEFT_OUT:
        return None
    return None if ".." in parts else parts[3:]


def _unsafe(archive: Path, name: str) -> ProofError:
    return ProofError(
        "toolchain.bad_archive",
        tr("{file} is not the archive that was expected (at {name})", file=archive.name, name=name),
        tr("delete {path} and run the command again", path=str(archive)),
    )


def copy_converter(tree: Path, target: Path) -> None:
    """Copy the converter scripts and their packages, all that is kept of the source."""
    target.mkdir(parents=True)
    for name in _CONVERTER_PARTS:
        part = tree / name
        if part.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "tests", "examples")
            shutil.copytree(part, target / name, ignore=ignore)
        else:
            shutil.copy2(part, target / name)
