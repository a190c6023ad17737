"""What a GGUF's header takes on disk, so that a result's size is known before it is made."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import InputError
from slipway.core.i18n import tr

ALIGNMENT = 32
_PREFIX_BYTES = 24  # magic, version, number of tensors, number of keys
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """A GGUF's header.

    Attributes:
        keys: key -> bytes that the pair takes.
        tensors: tensor -> bytes that its description takes, in the file's order.
        shapes: tensor -> its shape, the row's length first.
    """

    keys: dict[str, int]
    tensors: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


def padded(size: int) -> int:
    """The size with the padding up to the next boundary."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def text_pair_bytes(key: str, text: str) -> int:
    """The bytes of a key with a text."""
    return 8 + len(key.encode()) + 4 + 8 + len(text.encode())


def number_pair_bytes(key: str) -> int:
    """The bytes of a key with a 32-bit number."""
    return 8 + len(key.encode()) + 4 + 4


def meta_bytes(keys: int, tensors: int) -> int:
    """The bytes before the tensors' data."""
    return padded(_PREFIX_BYTES + keys + tensors)


def read_header(path: Path) -> Header:
    """Read the header; the weights are not touched.

    Raises:
        InputError: the file is no GGUF, or cut short.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise InputError(
            "gguf.damaged",
            tr("{path} is no readable GGUF: {reason}", path=str(path), reason=str(error)),
            tr("make it again with `slipway convert`"),
        ) from error


def _read(data: mmap.mmap) -> Header:
    magic, _, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF":
        raise ValueError("magic")
    at = _PREFIX_BYTES
    keys: dict[str, int] = {}
    for _ in range(pairs):
        start = at
        key, at = _text(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at = _after(data, at + 4, kind)
        keys[key] = at - start
    found: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(tensors):
        start = at
        name, at = _text(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        shapes[name] = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
        at += 4 + 8 * dimensions + 4 + 8
        found[name] = at - start
    if at > len(data):
        raise ValueError("cut short")
    return Header(keys, found, shapes)


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError("cut short")
    return data[at + 8 : end].decode("utf-8"), end


def _after(data: mmap.mmap, at: int, kind: int) -> int:
    """Where a value ends."""
    if kind == _STRING:
        (length,) = struct.unpack_from("<Q", data, at)
        return int(at + 8 + length)
    if kind != _ARRAY:
        return at + _WIDTHS[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in _WIDTHS:
        return int(at + count * _WIDTHS[inner])
    for _ in range(count):
        at = _after(data, at, inner)
    return at
