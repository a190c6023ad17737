"""Content-addressed files `blobs/sha256-<hex>`: a blob is there whole and right, or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, from_os_error
from slipway.core.files import fsync_dir, sha256_file
from slipway.core.i18n import tr

_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STALE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored file: digest "sha256:<hex>" and size in bytes."""

    digest: str
    size: int


class BlobStore:
    """The blobs below a model store's root; safe with several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "blobs"

    def path(self, digest: str) -> Path:
        """Where the blob lies.

        Raises:
            InputError: `digest` is not "sha256:" and 64 lower-case hex digits.
        """
        check_digest(digest)
        return self.folder / digest.replace(":", "-")

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there with its size (its content was checked when it was stored)."""
        try:
            return self.path(blob.digest).stat().st_size == blob.size
        except OSError:
            return False

    def put_bytes(self, data: bytes) -> Blob:
        """Store bytes; storing the same again costs nothing."""
        blob = Blob("sha256:" + hashlib.sha256(data).hexdigest(), len(data))
        if not self.has(blob):
            with self._temporary() as (handle, temporary):
                handle.write(data)
                _settle(handle)
                self._adopt(temporary, blob)
        return blob

    def put_file(self, source: Path, *, link: bool = False) -> Blob:
        """Store a file's content.

        Args:
            link: the file is one that nobody changes in place (an artefact of ours), so a hard
                link may stand for a copy where the file system allows.
        """
        try:
            if (stored := self.known(source)) is not None:
                return stored
            if link:
                blob = Blob("sha256:" + sha256_file(source), source.stat().st_size)
                if self.has(blob) or self._link(source, blob):
                    return blob
            return self._copy(source)
        except OSError as error:
            raise from_os_error(error, source) from error

    def take(self, source: Path, blob: Blob) -> str:
        """Give a file of the blobs' folder its place when its digest is that of `blob`.

        Returns:
            the digest that was found; with another one nothing has changed.
        """
        try:
            found = "sha256:" + sha256_file(source)
            if found == blob.digest and source.stat().st_size == blob.size:
                self._adopt(source, blob)
        except OSError as error:
            raise from_os_error(error, source) from error
        return found

    def link_or_copy(self, source: Path, blob: Blob) -> bool:
        """Store a file whose digest is known; says whether a hard link was enough."""
        try:
            if self._link(source, blob):
                return True
            self._copy(source)
        except OSError as error:
            raise from_os_error(error, source) from error
        return False

    def receiver(self, digest: str, most_bytes: int) -> BlobReceiver:
        """Takes a blob's bytes piece by piece; see `BlobReceiver`."""
        return BlobReceiver(self, digest, most_bytes)

    def known(self, path: Path) -> Blob | None:
        """The blob that a path is, when it lies in this store; else None."""
        digest = path.name.replace("-", ":", 1)
        if path.parent != self.folder or not _DIGEST.fullmatch(digest) or not path.is_file():
            return None
        return Blob(digest, path.stat().st_size)

    def remove(self, digest: str) -> int:
        """Delete a blob and return the bytes that were freed."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise from_os_error(error, path) from error
        return size

    @contextmanager
    def lock(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the store: shared while adding, exclusive while removing.

        Without it a removal could delete a blob between the moment another process finds it
        present and the moment that process's manifest refers to it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / ".lock").open("ab")
        except OSError as error:
            raise from_os_error(error, self.root) from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    def _link(self, source: Path, blob: Blob) -> bool:
        target = self.path(blob.digest)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}-{time.monotonic_ns()}"
        try:
            os.link(source.resolve(), temporary)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                return False
            raise
        temporary.replace(target)
        fsync_dir(self.folder)
        return True

    def _copy(self, source: Path) -> Blob:
        digest = hashlib.sha256()
        size = 0
        with source.open("rb") as file, self._temporary() as (handle, temporary):
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                handle.write(chunk)
                size += len(chunk)
            _settle(handle)
            blob = Blob("sha256:" + digest.hexdigest(), size)
            if not self.has(blob):
                self._adopt(temporary, blob)
        return blob

    @contextmanager
    def _temporary(self) -> Iterator[tuple[tempfile._TemporaryFileWrapper[bytes], Path]]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            with tempfile.NamedTemporaryFile(
                prefix=".tmp-", dir=self.folder, delete=False
            ) as handle:
                temporary = Path(handle.name)
                try:
                    yield handle, temporary
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, self.folder) from error

    def _adopt(self, temporary: Path, blob: Blob) -> None:
        temporary.chmod(0o644)
        temporary.replace(self.path(blob.digest))
        fsync_dir(self.folder)

    def _sweep(self) -> None:
        """Remove what killed processes left, once it is too old to be in use."""
        for path in self.folder.glob(".tmp-*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
            except OSError:
                continue  # another process swept it first


def check_digest(digest: str) -> None:
    """The grammar of digests, which makes them safe as file names.

    Raises:
        InputError: not "sha256:" and 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(digest):
        raise InputError("store.bad_digest", tr("`{digest}` is not a sha256 digest", digest=digest))


class BlobReceiver:
    """A blob on its way in: bytes are written and counted, and adopted when their digest is right.

    Use as a context manager; without `finish` nothing is left.

    Args:
        digest: what it must be.
        most_bytes: more are refused.
    """

    def __init__(self, store: BlobStore, digest: str, most_bytes: int) -> None:
        store.path(digest)  # the grammar
        self._store, self._digest, self._most = store, digest, most_bytes
        self._sum, self._size = hashlib.sha256(), 0
        self._context = store._temporary()

    def __enter__(self) -> BlobReceiver:
        self._handle, self._path = self._context.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._context.__exit__(*problem)

    def write(self, data: bytes) -> None:
        """Take a piece.

        Raises:
            InputError: it becomes too large.
        """
        self._size += len(data)
        if self._size > self._most:
            raise InputError("store.blob_too_large", tr("the file is too large"))
        self._sum.update(data)
        self._handle.write(data)

    def finish(self) -> Blob:
        """Adopt the blob.

        Raises:
            InputError: the bytes have another digest.
        """
        found = "sha256:" + self._sum.hexdigest()
        if found != self._digest:
            raise InputError(
                "store.digest_mismatch",
                tr(
                    'digest mismatch, expected "{want}", got "{found}"',
                    want=self._digest,
                    found=found,
                ),
            )
        blob = Blob(found, self._size)
        if not self._store.has(blob):
            _settle(self._handle)
            self._store._adopt(self._path, blob)
        return blob


def _settle(handle: tempfile._TemporaryFileWrapper[bytes]) -> None:
    handle.flush()
    os.fsync(handle.fileno())
