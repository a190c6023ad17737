"""The header of a GGUF file (version 2 and 3): key-values and tensor shapes, nothing else.

The file may come from anywhere, so every count and length is bounded before it is used, and a
file that ends before its tensors do is refused instead of failing later inside the engine.
Format: ggml's docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from slipway.core.errors import InputError, from_os_error
from slipway.core.gguf_types import FILE_TYPES, TENSOR_TYPES
from slipway.core.i18n import tr

_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_KEY_BYTES = 1 << 16
_MAX_STRING_BYTES = 1 << 26
_MAX_ARRAY = 1 << 24
_MAX_DEPTH = 3
_KEEP_ITEMS = 1 << 10

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING = 8
_ARRAY = 9


@dataclass(frozen=True, slots=True)
class LongArray:
    """Stands for an array too long to keep (a vocabulary); `length` items.

    `digest` (CRC-32 of the items as they lie in the file) tells two of one length apart.
    """

    length: int
    digest: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's name, type name (such as "Q4_K") and shape, innermost dimension first.

    Attributes:
        offset: where its data begins, bytes from the start of the file.
        nbytes: bytes of its data; 0 when the type is not known here.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int = 0
    nbytes: int = 0


_CLASSIFIER = ("cls.weight", "cls.output.weight")
_POOLING_RANK = 4  # llama.cpp, enum llama_pooling_type


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says about itself.

    Attributes:
        values: every key; arrays longer than 1,024 items are `LongArray`.
        tensors: shapes of all tensors.
        size: bytes of the file.
        alignment: each tensor begins at a multiple of it, bytes.
    """

    version: int
    values: dict[str, Any]
    tensors: tuple[Tensor, ...]
    size: int
    alignment: int = 32

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as "llama", "qwen2", "bert"."""
        return str(self.values.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of this architecture: `get("context_length")` reads `<arch>.context_length`."""
        return self.values.get(f"{self.architecture}.{key}", default)

    def integer(self, key: str) -> int:
        """Like `get`, as a whole number; the largest of a per-layer array; 0 when not given."""
        value = self.get(key, 0)
        if isinstance(value, list):
            value = max((v for v in value if isinstance(v, int)), default=0)
        return value if isinstance(value, int) else 0

    @property
    def context_length(self) -> int:
        """Tokens the model was trained to hold; 0 when it does not say."""
        return self.integer("context_length")

    @property
    def embedding_length(self) -> int:
        """Width of the hidden state, and of the embeddings of an embedding model."""
        return self.integer("embedding_length")

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def file_type(self) -> str:
        """Name of the quantisation, "unknown" when the file does not say."""
        number = self.values.get("general.file_type")
        return FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown"

    @property
    def chat_template(self) -> str:
        """The Jinja chat template inside, or an empty string."""
        value = self.values.get("tokenizer.chat_template", "")
        return value if isinstance(value, str) else ""

    @property
    def is_embedding(self) -> bool:
        """Whether the model makes embeddings and cannot generate (BERT and its kin)."""
        return "pooling_type" in {key.partition(".")[2] for key in self.values} or (
            self.get("attention.causal") is False
        )

    @property
    def is_reranker(self) -> bool:
        """Whether the model scores pairs of texts.

        Its pooling is llama.cpp's RANK, or it names none and ends in a classifier of one label, as
        the converter writes BERT's kin (bge-reranker).
        """
        pooling = self.get("pooling_type")
        if pooling is not None:
            return bool(pooling == _POOLING_RANK)
        labels = self.get("classifier.output_labels")
        if isinstance(labels, list | tuple) and len(labels) > 1:
            return False
        return any(tensor.name in _CLASSIFIER for tensor in self.tensors)


class _Reader:
    """A cursor over the mapped file; every read is checked against the file's end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def unpack(self, form: str) -> Any:
        if self.at + struct.calcsize(form) > len(self.data):
            raise _Broken("ends inside its header")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def count(self, limit: int, what: str) -> int:
        value: int = self.unpack("<Q")
        if value > limit:
            raise _Broken(f"{what} of {value} is above the limit of {limit}")
        return value

    def raw(self, limit: int) -> bytes:
        length = self.count(limit, "a string length")
        if self.at + length > len(self.data):
            raise _Broken("ends inside a string")
        self.at += length
        return self.data[self.at - length : self.at]

    def text(self, limit: int = _MAX_STRING_BYTES) -> str:
        return self.raw(limit).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if form := _SCALARS.get(kind):
            return self.unpack(form)
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < _MAX_DEPTH:
            return self.array(depth)
        raise _Broken(f"a value of unknown type {kind}")

    def array(self, depth: int) -> Any:
        kind: int = self.unpack("<I")
        length = self.count(_MAX_ARRAY, "an array length")
        if length <= _KEEP_ITEMS:
            return [self.value(kind, depth + 1) for _ in range(length)]
        begin = self.at
        if form := _SCALARS.get(kind):
            self.at += struct.calcsize(form) * length
        elif kind == _STRING:
            self.skip_strings(length)
        else:
            raise _Broken("a long array of arrays")
        if self.at > len(self.data):
            raise _Broken("ends inside an array")
        return LongArray(length, zlib.crc32(self.data[begin : self.at]))

    def skip_strings(self, count: int) -> None:
        """Step over `count` strings; the inner loop of opening a model with a large vocabulary."""
        at, end, data, unpack = self.at, len(self.data), self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at + 8 > end:
                raise _Broken("ends inside an array")
            at += 8 + unpack(data, at)[0]
        self.at = at


class _Broken(Exception):
    """The file is no GGUF that could be loaded; the text says why."""


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Raises:
        NotFoundError: no such file.
        InputError: not a GGUF, a version that is not supported, damaged, or cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise _Broken("it does not begin with the letters GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(data)
    except OSError as error:
        raise from_os_error(error, path) from error
    except _Broken as error:
        raise InputError(
            "gguf.bad_file",
            tr("{path} is not a usable GGUF file: {reason}", path=str(path), reason=str(error)),
            tr("convert or download it again; make one with `slipway convert`"),
        ) from error


def _read(data: mmap.mmap) -> GgufHeader:
    reader = _Reader(data)
    reader.at = 4
    version: int = reader.unpack("<I")
    if version not in (2, 3):
        raise _Broken(f"GGUF version {version} is not supported (2 and 3 are)")
    tensor_count = reader.count(_MAX_TENSORS, "a tensor count")
    key_count = reader.count(_MAX_KEYS, "a key count")
    values: dict[str, Any] = {}
    for _ in range(key_count):
        key = reader.text(_MAX_KEY_BYTES)
        values[key] = reader.value(reader.unpack("<I"))
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise _Broken(f"an alignment of {alignment}")
    tensors = list(_tensors(reader, tensor_count))
    start = -(-reader.at // alignment) * alignment
    end = start + max((tensor.offset + tensor.nbytes for tensor in tensors), default=0)
    if end > len(data):
        raise _Broken(f"it is cut short: {end} bytes are needed, {len(data)} are there")
    placed = tuple(replace(tensor, offset=start + tensor.offset) for tensor in tensors)
    return GgufHeader(version, values, placed, len(data), alignment)


def _tensors(reader: _Reader, count: int) -> Iterator[Tensor]:
    """Each tensor, its offset relative to the data section."""
    for _ in range(count):
        name = reader.text(_MAX_KEY_BYTES)
        dimensions: int = reader.unpack("<I")
        if dimensions > 8:
            raise _Broken(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(int(reader.unpack("<Q")) for _ in range(dimensions))
        kind: int = reader.unpack("<I")
        offset: int = reader.unpack("<Q")
        label, block, block_bytes = TENSOR_TYPES.get(kind, (f"type{kind}", 1, 0))
        yield Tensor(name, label, shape, offset, prod(shape) // block * block_bytes)
