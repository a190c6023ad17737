"""Safetensors shards tensor by tensor: read, copied and written without holding a file in memory.

The layout is https://huggingface.co/docs/safetensors: eight bytes with the header's length, the
header (JSON: name -> number format, shape, place), then the tensors' bytes. `safetensors` itself
maps a whole file into memory and writes from a dictionary of all tensors; a merge must do neither.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from slipway.core.errors import InputError, from_os_error
from slipway.core.i18n import tr

if TYPE_CHECKING:
    from torch import Tensor, dtype

INDEX_NAME = "model.safetensors.index.json"
_PIECE_BYTES = 8 << 20
_SIZES = {
    **dict.fromkeys(["F64", "I64", "U64"], 8),
    **dict.fromkeys(["F32", "I32", "U32"], 4),
    **dict.fromkeys(["F16", "BF16", "I16", "U16"], 2),
    **dict.fromkeys(["I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"], 1),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a shard.

    Attributes:
        dtype: number format as safetensors calls it ("BF16").
        begin, end: of its bytes in the file.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written: its name, number format and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * _SIZES[self.dtype]


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a shard in the order of their bytes, and its metadata.

    Raises:
        NotFoundError: no such file.
        InputError: it is no safetensors file, damaged, or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header")
            header: dict[str, Any] = json.loads(file.read(length))
        metadata: dict[str, str] = header.pop("__metadata__", {})
        start = 8 + length
        found = [
            Entry(path, name, one["dtype"], tuple(one["shape"]), *(start + n for n in offsets))
            for name, one in header.items()
            for offsets in [one["data_offsets"]]
        ]
        for one in found:
            # a format that is not known here still has its place
            wanted = one.count * _SIZES.get(one.dtype, 0)
            if one.dtype in _SIZES and one.end - one.begin != wanted:
                raise ValueError(one.name)
    except FileNotFoundError as error:
        raise from_os_error(error, path) from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise InputError(
            "model.bad_weights", tr("{path} is no safetensors file, or damaged", path=str(path))
        ) from error
    wanted = max((one.end for one in found), default=start)
    if size < wanted:
        raise InputError(
            "model.truncated",
            tr(
                "{path} is cut short: {size} bytes of {wanted}",
                path=str(path),
                size=size,
                wanted=wanted,
            ),
            tr("make or fetch it again"),
        )
    return {one.name: one for one in sorted(found, key=lambda one: one.begin)}, metadata


def shard_paths(folder: Path) -> list[Path]:
    """The weight files that a reader of the folder would load, in the order of their names.

    Those that the index names; without an index `model.safetensors`, or whatever there is.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(named))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


class Weights:
    """All tensors of a model folder, each read when it is asked for.

    Attributes:
        entries: name -> where the tensor lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = shard_paths(folder)
        self.entries: dict[str, Entry] = {}
        for path in self.shards:
            self.entries |= read_header(path)[0]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def tensor(self, name: str) -> Tensor:
        """The whole tensor in its own number format."""
        return read_tensor(self.entries[name])

    def rows(self, name: str, begin: int, end: int) -> Tensor:
        """Some rows of a matrix."""
        return read_tensor(self.entries[name], begin, end)

    @property
    def count(self) -> int:
        """How many numbers the model has."""
        return sum(one.count for one in self.entries.values())


def torch_dtype(name: str) -> dtype:
    """The number format as torch knows it.

    Raises:
        KeyError: it is none that a base is merged in.
    """
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "I32": torch.int32,
        "I16": torch.int16,
        "I8": torch.int8,
        "U8": torch.uint8,
        "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }[name]


def read_tensor(entry: Entry, begin: int = 0, end: int | None = None) -> Tensor:
    """A tensor, or its rows from `begin` to `end`, read into memory of its own."""
    import torch

    shape = entry.shape
    if end is not None:
        shape = (end - begin, *shape[1:])
    row = _SIZES[entry.dtype] * math.prod(entry.shape[1:])
    dtype = torch_dtype(entry.dtype)
    size = math.prod(shape) * _SIZES[entry.dtype]
    if not size:
        return torch.empty(shape, dtype=dtype)
    data = bytearray(size)
    with entry.path.open("rb") as file:
        file.seek(entry.begin + begin * row)
        if file.readinto(data) != size:
            raise InputError(
                "model.bad_weights",
                tr("{path} is no safetensors file, or damaged", path=str(entry.path)),
            )
    return torch.frombuffer(data, dtype=dtype).view(shape)


def raw_bytes(entry: Entry) -> Iterator[bytes]:
    """The tensor's bytes as they lie in the file, in pieces."""
    left = entry.end - entry.begin
    with entry.path.open("rb") as file:
        file.seek(entry.begin)
        while left:
            piece = file.read(min(left, _PIECE_BYTES))
            if not piece:
                raise InputError(
                    "model.bad_weights",
                    tr("{path} is no safetensors file, or damaged", path=str(entry.path)),
                )
            left -= len(piece)
            yield piece


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor that lies in memory, without a copy."""
    import torch

    if tensor.numel():
        yield memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def write_shard(
    path: Path,
    planned: Sequence[Planned],
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """Write one shard: the header first, then each tensor as it comes.

    Args:
        content: name -> a function without arguments that gives the tensor's bytes in pieces.

    Raises:
        OSError: the disk is full or not writable.
        ValueError: a function gave another number of bytes than planned.
    """
    # widest numbers first, so that each tensor begins at a multiple of its numbers' size
    order = sorted(planned, key=lambda one: -_SIZES[one.dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for one in order:
        header[one.name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [at, at + one.size],
        }
        at += one.size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for one in order:
            if _write(file, content[one.name]()) != one.size:
                raise ValueError(f"{one.name}: not {one.size} bytes")


def _write(file: IO[bytes], pieces: Iterable[bytes | memoryview]) -> int:
    return sum(file.write(piece) for piece in pieces)
