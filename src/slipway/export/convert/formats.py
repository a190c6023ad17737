"""Number formats of a GGUF: which one keeps a model as it is, and how large the file becomes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from slipway.export.convert.scan import only_bf16
from slipway.export.shards import Entry, Weights

_BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5}
_NATIVE = {"BF16": "bf16", "F16": "f16", "F32": "f32", "F64": "f32"}
_SLACK_BYTES = 1 << 20  # metadata besides the vocabulary, and the tensors' names and alignment


def native_outtype(model_dir: Path) -> str:
    """The number format that keeps the folder's numbers: that of most of them.

    "f32" for fp32, unless every number is a bf16 number, too; "bf16" for weights of fewer bits and
    for files other than safetensors. (The converter's own `auto` rounds fp32 to fp16.)
    """
    counts: Counter[str] = Counter()
    for entry in Weights(model_dir).entries.values():
        if len(entry.shape) > 1:
            counts[entry.dtype] += entry.count
    usual = counts.most_common(1)
    found = _NATIVE.get(usual[0][0], "bf16") if usual else "bf16"
    return "bf16" if found == "f32" and only_bf16(model_dir) else found


def gguf_size(model_dir: Path, outtype: str) -> int:
    """Bytes that the GGUF needs at most, within a few per cent.

    Matrices have `outtype`, vectors are fp32; the vocabulary takes what its file takes.
    """
    weights = Weights(model_dir).entries.values()
    if not weights:  # pickled files, mostly of 16 bits a number
        pickled = sum(path.stat().st_size for path in model_dir.glob("*.bin"))
        return int(pickled * _BITS[outtype] / 16) + _SLACK_BYTES
    vocabulary = sum(
        path.stat().st_size
        for name in ("tokenizer.json", "tokenizer.model", "vocab.txt")
        if (path := model_dir / name).is_file()
    )
    return sum(_size(entry, outtype) for entry in weights) + vocabulary + _SLACK_BYTES


def _size(entry: Entry, outtype: str) -> int:
    if len(entry.shape) < 2:
        return 4 * entry.count
    bits = _BITS[outtype]
    if outtype == "q8_0" and entry.shape[-1] % 32:
        bits = 16.0
    return int(entry.count * bits / 8) + 32
