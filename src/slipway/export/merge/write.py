"""The merged folder: the base's shards with some weights changed, all else byte for byte."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from slipway.core.errors import InputError, ProofError, UsageError, nearest
from slipway.core.events import EventLog
from slipway.core.i18n import tr
from slipway.core.manifest import FILE_NAME
from slipway.export.merge.changes import Change, merged_weight, misfit
from slipway.export.shards import (
    FLOATS,
    INDEX_NAME,
    Entry,
    Planned,
    Weights,
    raw_bytes,
    read_header,
    read_tensor,
    tensor_bytes,
    torch_dtype,
    write_shard,
)

DType = Literal["keep", "bf16", "fp16", "fp32"]
_FORMATS = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
_IN_CONFIG = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# weights in other formats would be the base's, and be taken for the merged model's
_OTHER_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}
_FOLDERS = ("additional_chat_templates",)
HEAD = "lm_head.weight"


@dataclass(slots=True)
class Written:
    """What was written.

    Attributes:
        changed: names of the weights that are not the base's.
        untied: the output head became a weight of its own.
        left_out: files of the base that hold weights and were not copied.
    """

    changed: list[str] = field(default_factory=list)
    untied: bool = False
    left_out: list[str] = field(default_factory=list)


def check_dtype(dtype: str) -> None:
    """Refuse an unknown number format.

    Raises:
        UsageError: it is none of `DType`.
    """
    known = get_args(DType)
    if dtype not in known:
        raise UsageError(
            "merge.unknown_dtype",
            tr("unknown number format `{name}`", name=dtype),
            tr("use one of {names}", names=", ".join(nearest(dtype, known) or known)),
        )


def output_size(weights: Weights, dtype: str) -> int:
    """Bytes that the merged weights will take."""
    return sum(_planned(entry, dtype).size for entry in weights.entries.values())


def write_merged(
    base: Path,
    weights: Weights,
    changes: dict[str, Change],
    folder: Path,
    dtype: str,
    events: EventLog,
) -> Written:
    """Write the merged weights shard by shard, and copy the rest of the base.

    One tensor is in memory at a time.

    Raises:
        ProofError: a change fits no weight, or a weight does not fit the number format.
        OSError: the disk is full.
    """
    if not weights.shards:
        raise InputError(
            "merge.no_safetensors",
            tr("{path} has no .safetensors weights to merge into", path=str(base)),
            tr("get that base again with `slipway pull`, or train on this one"),
        )
    written = Written(left_out=copy_rest(base, folder))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    head = _head_of_its_own(weights, changes, config)
    for name in changes:
        if name not in weights and name != HEAD:
            raise misfit(name)
    writer = _Writer(changes, dtype, written)
    for number, shard in enumerate(weights.shards):
        events.emit(
            "progress", done=number, total=len(weights.shards) + 2, unit=f"merge: {shard.name}"
        )
        last = number == len(weights.shards) - 1
        writer.write(shard, folder / shard.name, head if last else None)
    if head is not None:
        written.untied = True
        _edit(folder / "config.json", _untie)
    if dtype != "keep":
        _edit(folder / "config.json", lambda text: _set_dtype(text, _IN_CONFIG[dtype]))
    _write_index(base, folder, weights, dtype, head)
    return written


def _head_of_its_own(
    weights: Weights, changes: dict[str, Change], config: dict[str, Any]
) -> Entry | None:
    """The embedding that a tied output head is made of, where the head changes otherwise than it.

    Raises:
        ProofError: the head is changed, and the base has none.
    """
    if HEAD in weights or HEAD not in changes:
        return None
    name = next((n for n in weights.entries if n.endswith("embed_tokens.weight")), None)
    if name is None or not config.get("tie_word_embeddings", True):
        raise misfit(HEAD)
    entry = weights.entries[name]
    if name in changes:
        tensor = read_tensor(entry)
        if merged_weight(changes[name], tensor, name).equal(
            merged_weight(changes[HEAD], tensor, HEAD)
        ):
            return None
    return entry


@dataclass(slots=True)
class _Writer:
    """Writes shards of the merged model."""

    changes: dict[str, Change]
    dtype: str
    written: Written

    def write(self, source: Path, target: Path, head: Entry | None) -> None:
        """One shard; the last one takes an output head that the base does not have."""
        entries, metadata = read_header(source)
        planned = [_planned(entry, self.dtype) for entry in entries.values()]
        content = {name: self._content(name, entry) for name, entry in entries.items()}
        if head is not None:
            one = _planned(head, self.dtype)
            planned.append(Planned(HEAD, one.dtype, one.shape))
            content[HEAD] = self._content(HEAD, head)
        write_shard(target, planned, content, metadata)

    def _content(self, name: str, entry: Entry) -> Callable[[], Iterator[bytes | memoryview]]:
        plan = _planned(entry, self.dtype)
        change = self.changes.get(name)

        def pieces() -> Iterator[bytes | memoryview]:
            if change is None and plan.dtype == entry.dtype:
                yield from raw_bytes(entry)
                return
            before = read_tensor(entry)
            made = before if change is None else merged_weight(change, before, name)
            after = made.to(torch_dtype(plan.dtype))
            del made
            _require_fits(after, name, plan.dtype)
            if change is not None and not after.equal(before.to(after.dtype)):
                self.written.changed.append(name)
            yield from tensor_bytes(after)

        return pieces


def _planned(entry: Entry, dtype: str) -> Planned:
    kept = dtype == "keep" or entry.dtype not in FLOATS
    return Planned(entry.name, entry.dtype if kept else _FORMATS[dtype], entry.shape)


def _require_fits(tensor: Any, name: str, dtype: str) -> None:
    import torch

    if dtype == "F16" and not bool(torch.isfinite(tensor).all()):
        raise ProofError(
            "merge.fp16_overflow",
            tr("`{tensor}` has values above 65504, the largest in fp16", tensor=name),
            tr("merge with `--dtype bf16`"),
        )


def copy_rest(base: Path, folder: Path) -> list[str]:
    """Copy all that is not weights, byte for byte; return the weight files that were left out."""
    shards = {path.name for path in Weights(base).shards}
    left_out = []
    for path in sorted(base.iterdir()):
        if path.is_dir() and path.name in _FOLDERS:
            shutil.copytree(path, folder / path.name)
        elif not path.is_file() or path.name == FILE_NAME or path.name.endswith(".lock"):
            continue
        elif path.suffix in _OTHER_WEIGHTS or path.name.endswith(".bin.index.json"):
            if path.name not in shards:
                left_out.append(path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    return left_out


def _write_index(
    base: Path, folder: Path, weights: Weights, dtype: str, head: Entry | None
) -> None:
    """Change the index where sizes changed or a weight was added; else it stays as it is."""
    path = base / INDEX_NAME
    if not path.is_file() or (dtype == "keep" and head is None):
        return
    index = json.loads(path.read_text(encoding="utf-8"))
    total = output_size(weights, dtype)
    metadata = index.setdefault("metadata", {})
    if head is not None:
        total += _planned(head, dtype).size
        index["weight_map"][HEAD] = weights.shards[-1].name
        if "total_parameters" in metadata:
            metadata["total_parameters"] += head.count
    metadata["total_size"] = total
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def _set_dtype(text: str, name: str) -> str:
    """The config with another number format; not a byte more is touched."""
    pattern = r'("(?:torch_)?dtype"\s*:\s*)"(?:bfloat16|float16|float32|float64)"'
    return re.sub(pattern, rf'\g<1>"{name}"', text)


def _untie(text: str) -> str:
    changed, count = re.subn(r'("tie_word_embeddings"\s*:\s*)true', r"\g<1>false", text)
    return changed if count else re.sub(r"\{", '{\n  "tie_word_embeddings": false,', text, count=1)
