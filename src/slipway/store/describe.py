"""What a stored model is, in the fields of Ollama's /api/show and /api/tags."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from slipway.core.gguf import GgufHeader, LongArray, read_gguf
from slipway.store.create import capabilities
from slipway.store.manifests import ModelManifest
from slipway.store.parameters import format_parameters
from slipway.store.render_modelfile import render_modelfile
from slipway.store.template_kind import abilities

_HIDDEN = ("general.name", "tokenizer.chat_template")
_SHORT = 5


def header_of(model: ModelManifest) -> GgufHeader:
    """The GGUF header of a stored model, remembered by its content's digest."""
    return _header(model.gguf_path)


@lru_cache(maxsize=64)
def _header(path: Path) -> GgufHeader:
    return read_gguf(path)


def capabilities_of(model: ModelManifest) -> list[str]:
    """What a stored model can do; read from its GGUF when its config does not say."""
    stored = model.details.get("capabilities")
    known = list(stored) if isinstance(stored, list) else capabilities(header_of(model))
    if not isinstance(stored, list) and model.template and "completion" in known:
        known = ["completion", *abilities(model.template)]
    if model.projector_path and "vision" not in known:
        known.append("vision")
    return known


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with a fraction, as Ollama's; `moment` must be in UTC."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def details(model: ModelManifest) -> dict[str, Any]:
    """`details` of a model."""
    facts = model.details
    family = facts.get("model_family", "")
    return {
        "parent_model": "",
        "format": facts.get("model_format", "gguf"),
        "family": family,
        "families": facts.get("model_families") or [family],
        "parameter_size": facts.get("model_type", ""),
        "quantization_level": facts.get("file_type", ""),
        "context_length": facts.get("context_length", 0),
        "embedding_length": facts.get("embedding_length", 0),
    }


def describe_model(model: ModelManifest, *, verbose: bool = False) -> dict[str, Any]:
    """Everything /api/show says about a model, with our lineage and quality card beside it."""
    header = header_of(model)
    answer: dict[str, Any] = {
        "license": "\n".join(model.licenses),
        "modelfile": render_modelfile(model),
        "parameters": format_parameters(model.parameters),
        "template": model.template or header.chat_template,
        "system": model.system,
        "details": details(model),
        "messages": model.messages,
        "model_info": _model_info(header, verbose),
        "capabilities": capabilities_of(model),
        "modified_at": timestamp(model.modified_at),
    }
    if model.lineage:
        answer["lineage"] = model.lineage
    if model.quality:
        answer["quality"] = model.quality
    if verbose:
        answer["tensors"] = [
            {"name": tensor.name, "type": tensor.type, "shape": list(tensor.shape)}
            for tensor in header.tensors
        ]
    return {key: value for key, value in answer.items() if value not in ("", [])}


def _model_info(header: GgufHeader, verbose: bool) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for key, value in header.values.items():
        if key in _HIDDEN:
            continue
        if isinstance(value, LongArray) or (
            isinstance(value, list) and len(value) > _SHORT and not verbose
        ):
            value = None
        info[key] = value
    return {**info, "general.parameter_count": header.parameters}
