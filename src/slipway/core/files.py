"""Atomic files and folders, and digests: a reader sees the old state or the new, never half."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from slipway.core.errors import ConflictError, from_os_error
from slipway.core.i18n import tr
from slipway.core.process import is_alive

_CHUNK_BYTES = 1 << 20


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path` through a temporary file, fsync and rename.

    Raises:
        SlipwayError: when the disk is full or the path is not writable; `path` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
            fsync_dir(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise from_os_error(error, path) from error


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), mode=mode)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Write readable JSON (UTF-8, two-space indent, trailing newline) atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n", mode=mode)


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """Write a file piece by piece; it stands at `path` only when the block succeeds.

    Args:
        force: overwrite a file that is there.

    Raises:
        ConflictError: a file is there.
        SlipwayError: the disk is full or the path is not writable; `path` is untouched.
    """
    if path.exists() and not force:
        raise ConflictError(
            "file.exists",
            tr("{path} exists already", path=str(path)),
            tr("give another name, or overwrite it with `--force`"),
        )
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        fsync_dir(path.parent)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `<path>.lock`; other processes wait. A killed holder lets go."""
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise from_os_error(error, lock) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Build a folder beside `final` and move it there only when the block succeeds.

    On failure or kill nothing is at `final`; left-overs of killed builds of the same folder are
    removed at the next call. An existing `final` is replaced.

    Yields:
        the temporary folder to fill.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.{os.getpid()}.", dir=final.parent))
    except OSError as error:
        raise from_os_error(error, final) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        fsync_tree(temporary)
        if final.exists():
            old = temporary.with_name(temporary.name + ".old")
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(final)
        fsync_dir(final.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise from_os_error(error, final) from error
        raise


def _remove_leftovers(final: Path) -> None:
    for path in final.parent.glob(f".{final.name}.*"):
        owner = path.name.removeprefix(f".{final.name}.").split(".")[0]
        if path.is_dir() and owner.isdigit() and not is_alive(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def fsync_dir(path: Path) -> None:
    """Make renames inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(path: Path) -> None:
    """Make every file below `path` durable."""
    for file in path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def sha256_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file as 64 hex digits, read in constant memory.

    Args:
        on_bytes: called with the size of each chunk, for a progress bar.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if on_bytes:
                on_bytes(len(chunk))
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
