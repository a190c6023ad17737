"""How much disk a ship takes, told before anything is made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from slipway.export.quantise.type_names import BLOCKS, tensor_bytes
from slipway.export.shards import Entry, Weights, read_header

_SPARE_BYTES = 16_000_000  # tokenizer, header, manifests
# what llama.cpp takes where a row does not divide into blocks of 256
_SMALL_BLOCKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# the mixtures keep some tensors larger than the type says
_MIXTURE = {"_S": 1.03, "_M": 1.08, "_L": 1.15}


def weight_bytes(model: Path) -> int:
    """Bytes of a model folder's weights, or of a base that a run will be merged into."""
    return sum(entry.count * _width(entry) for entry in Weights(model).entries.values())


def adapter_bytes(run: Path) -> int:
    """About how large a run's adapter will be as GGUF in fp32."""
    entries, _ = read_header(run / "adapter" / "adapter_model.safetensors")
    return 4 * sum(entry.count for entry in entries.values()) + _SPARE_BYTES // 16


def quant_bytes(model: Path, kind: str) -> int:
    """About how large a quant will be, from the shapes alone.

    The tool's mixtures decide per tensor; once the GGUF is there, `plan_quantize` gives the size
    to the byte.
    """
    return _quant_bytes(Weights(model).entries.values(), kind)


def _quant_bytes(entries: Iterable[Entry], kind: str) -> int:
    default = next(
        (n for n in (kind, kind.rpartition("_")[0], f"{kind.rpartition('_')[0]}_S") if n in BLOCKS),
        "Q8_0",
    )
    data = 0.0
    for entry in entries:
        if len(entry.shape) < 2:
            data += entry.count * 4
            continue
        wanted = "Q6_K" if "embed" in entry.name and default.endswith("_K") else default
        if entry.shape[-1] % BLOCKS[wanted][0]:
            wanted = _SMALL_BLOCKS.get(wanted, "Q8_0")
        share = _MIXTURE.get(kind[-2:], 1.0) if wanted == default else 1.0
        data += tensor_bytes(wanted, entry.shape[::-1]) * share
    return round(data) + _SPARE_BYTES


def _width(entry: Entry) -> int:
    return (entry.end - entry.begin) // max(1, entry.count)
