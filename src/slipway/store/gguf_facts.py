"""What a GGUF holds, whether it is sound, and how two of them differ."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any, Literal

from slipway.core.gguf import GgufHeader, LongArray, Tensor

Part = Literal["embedding", "attention", "feed-forward", "experts", "norm", "output", "other"]

_TEMPLATE = "tokenizer.chat_template"
_SHOWN = 60  # characters of a value
# first match wins: an expert's weight is a feed-forward weight too, and a norm lies in attention
_PARTS: tuple[tuple[Part, str], ...] = (
    ("norm", r"norm"),
    ("experts", r"_exps|_shexp|ffn_gate_inp"),
    ("feed-forward", r"ffn_"),
    ("attention", r"attn|ssm_"),
    ("embedding", r"^(token_embd|position_embd|token_types|per_layer_token_embd)"),
    ("output", r"^(output|cls)"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors taken together: how many, their bytes and weights."""

    tensors: int
    nbytes: int
    weights: int


@dataclass(frozen=True, slots=True)
class Differences:
    """How a second file differs from a first.

    Attributes:
        added, removed: keys.
        changed: key -> its values in both, shortened.
        template: unified diff of the chat templates, line by line.
        tensors_added, tensors_removed: names.
        tensors_changed: name -> type and shape in both.
    """

    added: dict[str, str] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)
    template: list[str] = field(default_factory=list)
    tensors_added: list[str] = field(default_factory=list)
    tensors_removed: list[str] = field(default_factory=list)
    tensors_changed: dict[str, list[str]] = field(default_factory=dict)

    @property
    def none(self) -> bool:
        """Whether the headers say the same."""
        return self == Differences()


def part_of(name: str) -> Part:
    """The part of the model that a tensor belongs to, by llama.cpp's names."""
    return next((part for part, pattern in _PARTS if re.search(pattern, name)), "other")


def by_type(header: GgufHeader) -> dict[str, Group]:
    """Type -> its tensors, the largest first."""
    return _grouped((tensor.type, tensor) for tensor in header.tensors)


def by_part(header: GgufHeader) -> dict[str, Group]:
    """Part of the model -> its tensors, the largest first."""
    return _grouped((part_of(tensor.name), tensor) for tensor in header.tensors)


def bits_per_weight(header: GgufHeader) -> float:
    """Bits of tensor data for each weight; the header is not counted."""
    return 8 * sum(tensor.nbytes for tensor in header.tensors) / max(1, header.parameters)


def special_tokens(header: GgufHeader) -> dict[str, int]:
    """Role (bos, eos, eot, padding, ...) -> id."""
    pattern = re.compile(r"tokenizer\.ggml\.(\w+)_token_id$")
    found = ((pattern.match(key), value) for key, value in header.values.items())
    return {match[1]: value for match, value in found if match and isinstance(value, int)}


def shown(value: Any) -> str:
    """A value for people: long texts and arrays shortened."""
    if isinstance(value, LongArray):
        return f"[{value.length} items, crc32 {value.digest:08x}]"
    text = repr(value) if isinstance(value, str | list) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(value)})"


def faults(header: GgufHeader) -> list[str]:
    """What is wrong with the places of the tensors; English, for people and logs.

    That each lies within the file was checked when the header was read.
    """
    found = []
    names = Counter(tensor.name for tensor in header.tensors)
    found += [f"tensor {name} is there {n} times" for name, n in names.items() if n > 1]
    for tensor in header.tensors:
        if tensor.offset % header.alignment:
            found.append(f"tensor {tensor.name} is not aligned to {header.alignment} bytes")
        if not tensor.nbytes:
            found.append(f"tensor {tensor.name} has no data, or a type not known here")
    placed = sorted((t for t in header.tensors if t.nbytes), key=lambda tensor: tensor.offset)
    for before, after in pairwise(placed):
        if before.offset + before.nbytes > after.offset:
            found.append(f"tensors {before.name} and {after.name} overlap")
    tokens = header.values.get("tokenizer.ggml.tokens")
    count = 0
    if isinstance(tokens, LongArray | list):
        count = tokens.length if isinstance(tokens, LongArray) else len(tokens)
    for role, number in special_tokens(header).items():
        if count and not 0 <= number < count:
            found.append(f"the {role} token {number} is not in the vocabulary of {count}")
    return found


def differences(one: GgufHeader, two: GgufHeader) -> Differences:
    """How the second header differs from the first."""
    a, b = one.values, two.values
    tensors = [{t.name: f"{t.type} {list(t.shape)}" for t in h.tensors} for h in (one, two)]
    before, after = (h.chat_template.splitlines() for h in (one, two))
    if before == after and one.chat_template != two.chat_template:  # in line ends alone
        before, after = (
            [repr(line) for line in h.chat_template.splitlines(keepends=True)] for h in (one, two)
        )
    return Differences(
        added={key: shown(b[key]) for key in b if key not in a},
        removed={key: shown(a[key]) for key in a if key not in b},
        changed={
            key: [shown(a[key]), shown(b[key])]
            for key in a
            if key in b and a[key] != b[key] and key != _TEMPLATE
        },
        template=list(difflib.unified_diff(before, after, "first", "second", lineterm="")),
        tensors_added=[name for name in tensors[1] if name not in tensors[0]],
        tensors_removed=[name for name in tensors[0] if name not in tensors[1]],
        tensors_changed={
            name: [kind, tensors[1][name]]
            for name, kind in tensors[0].items()
            if name in tensors[1] and tensors[1][name] != kind
        },
    )


def _grouped(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Group]:
    sums: dict[str, list[int]] = {}
    for key, tensor in pairs:
        group = sums.setdefault(key, [0, 0, 0])
        for at, value in enumerate((1, tensor.nbytes, prod(tensor.shape))):
            group[at] += value
    ordered = sorted(sums.items(), key=lambda pair: -pair[1][1])
    return {key: Group(*values) for key, values in ordered}
