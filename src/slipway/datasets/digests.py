"""Digests of data files, computed once while a file stays as it is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from slipway.core.files import sha256_file


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, 64 hex digits, remembered until its size, times or place change.

    A run asks for it as the identity of its data and again as the key of the token cache; the file
    may be of many gigabytes.
    """
    stat = file.stat()
    return _digest(
        file, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    )


@lru_cache(maxsize=1024)
def _digest(file: Path, known_by: tuple[int, ...]) -> str:
    return sha256_file(file)
