"""The model store: names, blobs, manifests, Modelfiles, lineage; laid out on disk as Ollama's.

Light to import: no engine, no torch, no network.
"""

from slipway.core.gguf import GgufHeader, read_gguf
from slipway.store.catalogue import (
    copy_model,
    list_models,
    remove_model,
    resolve_model,
    verify_model,
)
from slipway.store.create import create_model, create_parsed
from slipway.store.describe import describe_model
from slipway.store.manifests import ModelManifest
from slipway.store.modelfile import Modelfile, parse_modelfile, read_modelfile
from slipway.store.names import ModelName
from slipway.store.quality import attach_quality
from slipway.store.render_modelfile import render_modelfile

__all__ = [
    "GgufHeader",
    "ModelManifest",
    "ModelName",
    "Modelfile",
    "attach_quality",
    "copy_model",
    "create_model",
    "create_parsed",
    "describe_model",
    "list_models",
    "parse_modelfile",
    "read_gguf",
    "read_modelfile",
    "remove_model",
    "render_modelfile",
    "resolve_model",
    "verify_model",
]
