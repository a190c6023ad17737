"""Tensors in a file, written as a stream with a digest, so that damage shows before it is used."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

from slipway.core.files import sha256_file


class _Stream:
    """A file that hashes what is written to it, and keeps the error that torch would hide."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()


def write_tensors(path: Path, value: Any) -> str:
    """Write what `torch.save` can write; return the SHA-256 of the file as hex digits.

    No second copy of the tensors is made in memory. The file is not atomic by itself: write it
    into a `new_folder`.

    Raises:
        OSError: the disk is full or not writable.
    """
    with path.open("wb") as file:
        stream = _Stream(file)
        try:
            torch.save(value, stream)
        except RuntimeError as error:  # torch's own, about a position that did not move
            if stream.error is not None:
                raise stream.error from error
            raise
    return stream.sha256.hexdigest()


def read_tensors(path: Path, sha256: str | None = None) -> Any:
    """Read what `write_tensors` wrote, onto the CPU, with nothing but tensors and plain values.

    Args:
        sha256: what the file must have; None if nobody knows.

    Raises:
        ValueError: the file is damaged, or cannot be read.
    """
    try:
        if sha256 is not None and sha256_file(path) != sha256:
            raise ValueError(f"{path.name} is damaged: its SHA-256 is another")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ValueError(
            str(error).strip().splitlines()[0] if str(error) else "unreadable"
        ) from error
