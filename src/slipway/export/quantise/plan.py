"""What the tool will make of a file: each tensor's type, and the result's size to the byte.

The types come from the tool's own dry run, so that its mixtures are never guessed; the size is
block arithmetic over them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.core import process
from slipway.core.errors import InputError, UsageError, nearest
from slipway.core.i18n import tr
from slipway.export.quantise.header import (
    Header,
    meta_bytes,
    number_pair_bytes,
    padded,
    read_header,
    text_pair_bytes,
)
from slipway.export.quantise.options import Options
from slipway.export.quantise.type_names import BLOCKS, is_quantised, tensor_bytes
from slipway.export.toolchain import Toolchain

MATRIX_NAME = "imatrix.gguf"
"""The matrix's name as the tool is told it: it writes it into the result, so it is always this."""

_TENSOR = re.compile(
    r"\[ *\d+/ *\d+\] +(\S+) +- \[([^]]+)\], type = +(\w+), +size = +\S+ MiB"
    r"(?: -> +\S+ MiB \((\w+)\))?"
)
_FALLBACK = re.compile(
    r"warning: (\S+) +- ncols +(\d+) not divisible by +(\d+) \(required for type +(\w+)\)"
    r".*falling back to +(\w+)"
)


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor: its shape (row length first), its type in the source and in the result."""

    name: str
    shape: tuple[int, ...]
    source: str
    type: str

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.type, self.shape)

    @property
    def weights(self) -> int:
        return tensor_bytes("I8", self.shape)


@dataclass(frozen=True, slots=True)
class Fallback:
    """A tensor that cannot have the wanted type, and why."""

    tensor: str
    wanted: str
    got: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What one type makes of the source.

    Attributes:
        type: the type asked for.
        tensors: in the tool's order.
        fallbacks: tensors whose rows do not divide into the wanted type's blocks.
        size_bytes: the result's exact size, all its files together.
        hits: override "REGEX=TYPE" -> the tensors that get their type by it.
    """

    type: str
    tensors: tuple[TensorPlan, ...]
    fallbacks: tuple[Fallback, ...]
    size_bytes: int
    hits: dict[str, list[str]]

    @property
    def bpw(self) -> float:
        """Bits per weight of the tensors' data."""
        weights = sum(tensor.weights for tensor in self.tensors)
        return sum(tensor.bytes for tensor in self.tensors) * 8 / weights

    def as_json(self) -> dict[str, Any]:
        """For `--json`: sizes, types and what the overrides hit."""
        types = Counter(tensor.type.lower() for tensor in self.tensors)
        return {
            "type": self.type,
            "size_bytes": self.size_bytes,
            "bpw": round(self.bpw, 4),
            "tensor_types": dict(types.most_common()),
            "overrides": self.hits,
            "fallbacks": fallbacks_json(self.fallbacks),
        }


def fallbacks_json(fallbacks: Sequence[Fallback]) -> list[dict[str, str]]:
    """Each fallback as {"tensor", "wanted", "got", "why"}."""
    return [{"tensor": f.tensor, "wanted": f.wanted, "got": f.got, "why": f.why} for f in fallbacks]


@dataclass(frozen=True, slots=True)
class MatrixFacts:
    """What of a matrix is written into the result's header: its first data set's name, whether
    it tells its chunks."""

    dataset: str
    chunks: bool = True


def plan_types(
    toolchain: Toolchain,
    sources: Sequence[Path],
    types: Sequence[str],
    options: Options,
    matrix: tuple[Path, MatrixFacts] | None,
) -> dict[str, Plan]:
    """Plan each type.

    Args:
        sources: the source's files, one unless it is split.
        matrix: the importance matrix to come; it changes a few of the tool's choices.

    Raises:
        UsageError: an override finds no tensor or does nothing, or a type's blocks do not fit.
        InputError: a tensor is quantised already.
        ToolError: the dry run failed.
    """
    headers = [read_header(source) for source in sources]

    def one(name: str) -> Plan:
        arguments: list[str | Path] = [*options.arguments(), "--dry-run"]
        if matrix:
            arguments += ["--imatrix", matrix[0].absolute()]
        command = [toolchain.program("llama-quantize"), *arguments, sources[0].absolute(), name]
        tensors, fallbacks = parse_dry_run(process.run(command), name, options)
        _require_floats(tensors, options, sources[0])
        _require_rows(tensors)
        size = _size(headers, tensors, options, matrix[1] if matrix else None)
        return Plan(name, tensors, fallbacks, size, _hits(tensors, fallbacks, options, name))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(types, pool.map(one, types), strict=True))


def parse_dry_run(
    text: str, name: str, options: Options
) -> tuple[tuple[TensorPlan, ...], tuple[Fallback, ...]]:
    """The tensors and fallbacks in the output of `llama-quantize --dry-run`."""
    tensors = []
    for tensor, shape, source, target in _TENSOR.findall(text):
        lengths = tuple(int(length) for length in shape.split(","))
        tensors.append(TensorPlan(tensor, lengths, source.upper(), (target or source).upper()))
    fallbacks = [
        Fallback(tensor, wanted.upper(), got.upper(), _why(int(row), int(block)))
        for tensor, row, block, wanted, got in _FALLBACK.findall(text)
    ]
    named = {fallback.tensor for fallback in fallbacks}
    for tensor_plan in tensors:
        silent = _silent_fallback(tensor_plan, name, options)
        if silent and tensor_plan.name not in named:
            fallbacks.insert(0, silent)
    return tuple(tensors), tuple(fallbacks)


def _why(row: int, block: int) -> str:
    return f"row of {row} is not a multiple of {block}"


def _silent_fallback(tensor: TensorPlan, name: str, options: Options) -> Fallback | None:
    """The output, or an embedding that is the output too, becomes Q8_0 without a word."""
    if tensor.name not in ("output.weight", "token_embd.weight") or tensor.type != "Q8_0":
        return None
    if options.pure or options.output_type or options.embedding_type or name in ("Q8_0", "MXFP4"):
        return None
    if any(override.finds(tensor.name) for override in options.overrides):
        return None
    block = BLOCKS[default][0] if (default := _default_type(name)) else 1
    if tensor.shape[0] % block == 0:
        return None
    wanted = "Q5_K" if name.startswith(("IQ1", "IQ2", "IQ3_XXS")) else "Q6_K"
    return Fallback(tensor.name, wanted, tensor.type, _why(tensor.shape[0], block))


def _default_type(name: str) -> str | None:
    """The tensor type that a file type is named after: Q4_K of Q4_K_M."""
    candidates = (name, name.rpartition("_")[0], f"{name.rpartition('_')[0]}_S")
    return next((candidate for candidate in candidates if candidate in BLOCKS), None)


def _require_floats(tensors: Sequence[TensorPlan], options: Options, source: Path) -> None:
    again = [t for t in tensors if is_quantised(t.source) and t.type != t.source]
    if again and not options.allow_requantize:
        raise InputError(
            "quantize.source_quantised",
            tr(
                "{path} is quantised already ({count} tensors, as {type}): each rounding adds to "
                "the loss",
                path=str(source),
                count=len(again),
                type=", ".join(sorted({t.source for t in again})),
            ),
            tr("quantise the float GGUF it was made from, or accept it with `--allow-requantize`"),
        )


def _require_rows(tensors: Sequence[TensorPlan]) -> None:
    """The tool takes the type of a whole option as it is, and would write blocks of nothing."""
    for tensor in tensors:
        block = BLOCKS[tensor.type][0]
        if tensor.shape[0] % block:
            raise UsageError(
                "quantize.row_not_multiple",
                tr(
                    "{type} needs rows that are a multiple of {block}, but {tensor} has rows of "
                    "{row}",
                    type=tensor.type,
                    block=block,
                    tensor=tensor.name,
                    row=tensor.shape[0],
                ),
                tr("take a type with smaller blocks, such as Q8_0 or Q5_0"),
            )


def _hits(
    tensors: Sequence[TensorPlan], fallbacks: Sequence[Fallback], options: Options, name: str
) -> dict[str, list[str]]:
    """Which tensors each override gives their type; an override without one is an error."""
    fallen = {(f.tensor, f.wanted) for f in fallbacks}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for override in options.overrides:
        text = f"{override.pattern}={override.type}"
        named = [t for t in tensors if override.finds(t.name)]
        found[text] = [
            t.name
            for t in named
            if t.name not in taken
            and (t.type == override.type or (t.name, override.type) in fallen)
        ]
        taken.update(t.name for t in named)
        if found[text]:
            continue
        if not named:
            close = nearest(override.pattern, [t.name for t in tensors])
            raise UsageError(
                "quantize.no_tensor",
                tr("`{pattern}` finds no tensor of the model", pattern=override.pattern),
                tr(
                    "its tensors have names such as {names}",
                    names=", ".join(close or [t.name for t in tensors[:3]]),
                ),
            )
        raise UsageError(
            "quantize.override_unused",
            tr(
                "`--tensor-type {text}` does nothing with {type}: its tensors are not quantised, "
                "or another option decides on them",
                text=text,
                type=name,
            ),
            tr("leave it out, or put it before the one that takes its tensors"),
        )
    return found


def _size(
    headers: Sequence[Header],
    tensors: Sequence[TensorPlan],
    options: Options,
    matrix: MatrixFacts | None,
) -> int:
    data = {tensor.name: padded(tensor.bytes) for tensor in tensors}
    first = {
        **headers[0].keys,
        **{k: number_pair_bytes(k) for k in ("general.quantization_version", "general.file_type")},
        **(_matrix_keys(matrix) if matrix else {}),
    }
    if options.keep_split:
        others = [sum(header.keys.values()) for header in headers[1:]]
        keys = [sum(first.values()), *others]
        return sum(
            meta_bytes(pairs, sum(header.tensors.values())) + sum(data[n] for n in header.tensors)
            for pairs, header in zip(keys, headers, strict=True)
        )
    whole = sum(size for key, size in first.items() if not key.startswith("split."))
    infos = sum(sum(header.tensors.values()) for header in headers)
    return meta_bytes(whole, infos) + sum(data.values())


def _matrix_keys(matrix: MatrixFacts) -> dict[str, int]:
    prefix = "quantize.imatrix."
    pairs = {
        f"{prefix}file": text_pair_bytes(f"{prefix}file", MATRIX_NAME),
        f"{prefix}dataset": text_pair_bytes(f"{prefix}dataset", matrix.dataset[:127]),
        f"{prefix}entries_count": number_pair_bytes(f"{prefix}entries_count"),
    }
    if matrix.chunks:
        pairs[f"{prefix}chunks_count"] = number_pair_bytes(f"{prefix}chunks_count")
    return pairs
