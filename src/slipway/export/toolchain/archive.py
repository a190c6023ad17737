"""Install an official prebuilt archive of llama.cpp: checked, unpacked safely, self-tested.

Slipway pins no digests of such archives: the user states the one that the release page gives.
An archive holds programs and their libraries but no converter; that comes from the pinned source.
"""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from slipway.core.download import download
from slipway.core.errors import (
    InputError,
    NotFoundError,
    ProofError,
    ResourceError,
    UsageError,
    from_os_error,
)
from slipway.core.files import locked, new_folder, sha256_file
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.export.toolchain import source
from slipway.export.toolchain.checks import remember_check
from slipway.export.toolchain.cpu import stamp_here
from slipway.export.toolchain.find import missing_programs, pin
from slipway.export.toolchain.install import OnProgress, program_version
from slipway.export.toolchain.keep import folder_for, write_record
from slipway.export.toolchain.model import CONVERTER, VERSION, Toolchain
from slipway.export.toolchain.ready import failures_text
from slipway.export.toolchain.selftest import SelfTestResult, self_test

MAX_BYTES = 8_000_000_000
"""Largest content that is unpacked; the largest official archive (CUDA) has about a quarter."""


def install_archive(
    home: Home, where: str, *, sha256: str | None = None, on_progress: OnProgress | None = None
) -> Toolchain:
    """Install a zip or tar archive of llama.cpp's programs and use it from now on.

    Args:
        where: a file, or an http(s) address.
        sha256: the digest it must have, 64 hex digits; needed for an address.

    Raises:
        UsageError: an address without digest, or what is given as digest is none.
        NotFoundError: no such file.
        ProofError: another digest, a path that leads out of the archive, or the self-test fails.
        InputError: no archive, or one without the programs.
        ResourceError: its content does not fit on the disk.
        UnreachableError: the address does not answer.
    """
    report = on_progress or (lambda stage, fraction, left_s: None)
    started = time.monotonic()
    archive, digest = _fetch(home, where, sha256, report)
    report("extract", None, None)
    home.cache.mkdir(parents=True, exist_ok=True)
    with (
        locked(home.toolchains / "install"),
        tempfile.TemporaryDirectory(prefix="prebuilt-", dir=home.cache) as scratch,
    ):
        tree = Path(scratch) / "tree"
        unpack(archive, tree)
        programs = find_programs(tree, archive)
        converter = _converter(home, tree, Path(scratch), report)
        built = Toolchain(tree, programs, converter, "unknown", "prebuilt", (), "prebuilt")
        built = replace(built, version=program_version(built.server))
        report("test", None, None)
        result = self_test(built)
        if not result.passed:
            raise ProofError(
                "toolchain.self_test",
                tr(
                    "the tools in {folder} fail the self-test: {failures}",
                    folder=archive.name,
                    failures=failures_text(result.failures),
                ),
                tr("build them for this processor with `slipway toolchain install`"),
            )
        name = f"llama.cpp-{built.version.rpartition('-')[2]}-prebuilt-{digest[:8]}"
        notes = {
            "variant": "prebuilt",
            "provider": "prebuilt",
            "flags": [],
            "why": f"installed from {where}; passed in {result.seconds:.1f} s",
            "rejected": {},
            "source": f"{archive.name} sha256:{digest}",
            "converter": "of the archive" if converter.is_relative_to(tree) else VERSION,
        }
        return _keep(home, built, name, notes, result, time.monotonic() - started)


def _keep(
    home: Home,
    built: Toolchain,
    name: str,
    notes: dict[str, Any],
    result: SelfTestResult,
    seconds: float,
) -> Toolchain:
    """Copy programs, libraries and converters into the home; use them from now on."""
    final = folder_for(home, name)
    try:
        with new_folder(final) as folder:
            shutil.copytree(built.bin, folder / "bin", symlinks=True)
            source.copy_converter(built.source, folder / "source")
            write_record(folder, final.name, built.version, notes, result, seconds)
    except OSError as error:
        raise from_os_error(error, final) from error
    remember_check(home, final.name, stamp_here(), result)
    pin(home, final.name)
    return replace(built, folder=final, bin=final / "bin", source=final / "source")


def _fetch(home: Home, where: str, sha256: str | None, report: OnProgress) -> tuple[Path, str]:
    """The archive and its digest, checked."""
    wanted = sha256.lower().removeprefix("sha256:") if sha256 else None
    if wanted is not None and not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise UsageError(
            "toolchain.bad_digest",
            tr("`{value}` is no SHA-256 (64 hex digits)", value=sha256),
            tr("copy it from the release page"),
        )
    if re.match(r"https?://", where):
        if wanted is None:
            raise UsageError(
                "toolchain.digest_needed",
                tr("an archive from the network needs its digest"),
                tr("give the one from the release page: `--sha256 …`"),
            )
        name = re.sub(r"[^\w.+-]", "_", where.split("?")[0].rpartition("/")[2]) or "archive"
        path = home.cache / "downloads" / f"{wanted[:8]}-{name}"
        download(
            where,
            path,
            sha256=wanted,
            on_progress=lambda done, total: report(
                "download", done / total if total else None, None
            ),
        )
        return path, wanted
    path = Path(where).expanduser()
    if not path.is_file():
        raise NotFoundError(
            "file.not_found",
            tr("{path} does not exist", path=str(path)),
            tr("give a zip or tar archive of llama.cpp, or its address"),
        )
    found = sha256_file(path)
    if wanted is not None and found != wanted:
        raise ProofError(
            "download.wrong_digest",
            tr("{path} has SHA-256 {found}, not {wanted}", path=str(path), found=found[:16],
               wanted=wanted[:16]),
            tr("fetch the archive again"),
        )  # fmt: skip
    return path, found


def _converter(home: Home, tree: Path, scratch: Path, report: OnProgress) -> Path:
    """The folder of the converters: the archive's own, else that of the pinned source."""
    own = next(tree.rglob(CONVERTER), None)
    if own is not None and (own.parent / "gguf-py").is_dir():
        return own.parent
    report("download", None, None)
    archive = source.fetch_archive(
        home, lambda done, total: report("download", done / (total or source.ARCHIVE_BYTES), None)
    )
    return source.extract(archive, scratch / "converter", converter_only=True)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip or tar archive; nothing of it can land outside of `target`.

    Raises:
        InputError: it is neither, or damaged.
        ProofError: a name or a link in it leads out of the folder, or it holds a device.
        ResourceError: its content is larger than the free disk, or than any official archive.
    """
    target.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                _require_fits(sum(info.file_size for info in zipped.infolist()), target)
                for info in zipped.infolist():
                    _unzip(zipped, info, archive, target)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _require_fits(sum(member.size for member in tar.getmembers()), target)
                tar.extractall(target, filter="data")
        else:
            raise _no_archive(archive, "neither zip nor tar")
    except tarfile.FilterError as error:
        raise _unsafe(archive, error.tarinfo.name) from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise _no_archive(archive, str(error)) from error


def _unzip(zipped: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path, target: Path) -> None:
    parts = PurePosixPath(info.filename.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise _unsafe(archive, info.filename)
    path = target / parts
    if not path.parent.resolve().is_relative_to(target.resolve()):
        raise _unsafe(archive, info.filename)  # below a link that an earlier entry made
    mode = info.external_attr >> 16
    if info.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if stat.S_ISLNK(mode):
        link = zipped.read(info).decode("utf-8", "replace")
        leads = (path.parent / link).resolve()
        if Path(link).is_absolute() or not leads.is_relative_to(target.resolve()):
            raise _unsafe(archive, info.filename)
        path.symlink_to(link)
        return
    with zipped.open(info) as content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if mode & 0o111 or path.name.startswith("llama-") else 0o644)


def _require_fits(size: int, target: Path) -> None:
    free = shutil.disk_usage(target).free
    if size > MAX_BYTES or size > free:
        raise ResourceError(
            "disk.full",
            tr("the archive's content ({size} MB) does not fit", size=size // 1_000_000),
            tr("{free} MB are free in {path}", free=free // 1_000_000, path=str(target.parent)),
        )


def find_programs(tree: Path, archive: Path) -> Path:
    """The folder of llama.cpp's programs in an unpacked archive.

    Raises:
        InputError: there is none, or a program is missing.
    """
    folders: Iterator[Path] = (path.parent for path in tree.rglob("llama-*") if path.is_file())
    best = min(set(folders), key=lambda folder: len(missing_programs(folder)), default=tree)
    if missing := missing_programs(best):
        raise InputError(
            "toolchain.incomplete",
            tr("{file} lacks {missing}", file=archive.name, missing=", ".join(missing)),
            tr("take an archive of llama.cpp's programs for this system"),
        )
    return best


def _no_archive(archive: Path, reason: str) -> InputError:
    return InputError(
        "toolchain.bad_archive",
        tr("{file} is no readable archive: {reason}", file=archive.name, reason=reason),
        tr("give a zip or tar archive of llama.cpp, or its address"),
    )


def _unsafe(archive: Path, name: str) -> ProofError:
    return ProofError(
        "toolchain.unsafe_archive",
        tr("{file} is refused: `{name}` leads out of it", file=archive.name, name=name),
        tr("take the archive from llama.cpp's own release page"),
    )
