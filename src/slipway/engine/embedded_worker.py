"""A worker on the xllamacpp package: llama.cpp's own HTTP server inside a small Python process.

Run as `python -m slipway.engine.embedded_worker` with the llama-server flags that
`slipway.engine.providers.flags` writes. It is a process of its own because a fault in the native
code must not take the daemon down.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_PARENT_CHECK_S = 1.0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the flags; unknown ones are an error, so that the two providers cannot drift apart."""
    parser = argparse.ArgumentParser(prog="slipway-embedded-worker", allow_abbrev=False)
    parser.add_argument("-m", dest="model", type=Path, required=True)
    parser.add_argument("--lora", dest="adapters", type=Path, action="append", default=[])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", dest="n_ctx", type=int, required=True)
    parser.add_argument("-np", dest="n_parallel", type=int, required=True)
    parser.add_argument("-b", dest="n_batch", type=int)
    parser.add_argument("-ub", dest="n_ubatch", type=int)
    parser.add_argument("-ngl", dest="n_gpu_layers", type=int)
    parser.add_argument("--main-gpu", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache-ram", dest="cache_ram_mib", type=int)
    parser.add_argument("--pooling", choices=("none", "mean", "cls", "last", "rank"))
    parser.add_argument("--chat-template-file", type=Path)
    for flag in (
        "--kv-unified",
        "--no-kv-unified",
        "--no-ui",
        "--offline",
        "--metrics",
        "--embedding",
    ):
        parser.add_argument(flag, action="store_true")
    for flag in ("--jinja", "--lora-init-without-apply"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-ctk", dest="cache_type_k")
    parser.add_argument("-ctv", dest="cache_type_v")
    parser.add_argument("-fa", dest="flash_attention", choices=("on", "off", "auto"))
    parser.add_argument("--mmproj", dest="projector", type=Path)
    parser.add_argument("--load-mode", choices=("none",))
    return parser.parse_args(arguments)


def parameters(flags: argparse.Namespace) -> Any:
    """The flags as xllamacpp's parameter object."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(flags.model)
    params.hostnames = [flags.host]
    for name in ("port", "n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_gpu_layers"):
        if getattr(flags, name) is not None:
            setattr(params, name, getattr(flags, name))
    if flags.main_gpu is not None:
        params.main_gpu = flags.main_gpu
    if flags.cache_ram_mib is not None:
        params.cache_ram_mib = flags.cache_ram_mib
    if flags.threads:
        params.cpuparams.n_threads = flags.threads
    if flags.pooling:
        params.pooling_type = getattr(
            xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{flags.pooling.upper()}"
        )
    if flags.chat_template_file:
        params.chat_template = flags.chat_template_file.read_text(encoding="utf-8")
    _set_cache(params, flags)
    if flags.projector:
        params.mmproj.path = str(flags.projector)
    params.lora_init_without_apply = flags.lora_init_without_apply
    if flags.load_mode == "none":
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.lora_adapters = [_adapter(path) for path in flags.adapters]
    params.kv_unified = not flags.no_kv_unified
    params.ui = not flags.no_ui
    params.offline = flags.offline
    params.endpoint_metrics = flags.metrics
    params.embedding = flags.embedding
    params.use_jinja = True
    if key := os.environ.get("LLAMA_API_KEY"):
        params.api_keys = [key]
    return params


def _adapter(path: Path) -> Any:
    import xllamacpp

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), 1.0
    return adapter


def _set_cache(params: Any, flags: argparse.Namespace) -> None:
    """Types of keys and values, and whether attention reads them without unpacking."""
    import xllamacpp

    for name in ("cache_type_k", "cache_type_v"):
        if value := getattr(flags, name):
            kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}")
            setattr(params, name, kind)
    if flags.flash_attention:
        kind = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[flags.flash_attention]
        params.flash_attn_type = getattr(
            xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{kind}"
        )


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or until the parent is gone."""
    parent = os.getppid()
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    flags = parse(arguments)
    import xllamacpp

    # While the model loads, native code holds this thread, so SIGTERM keeps its default and kills.
    server = xllamacpp.Server(parameters(flags))
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    print(f"listening on {server.listening_address}", flush=True)
    while not stopping.wait(_PARENT_CHECK_S):
        if os.getppid() != parent:
            break
    # Nothing here needs saving, and destroying the server waits for requests that still run.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
