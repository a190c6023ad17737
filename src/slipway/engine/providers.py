"""Which program a worker is, and its command line: llama-server's flags for every provider."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slipway.core.errors import NotFoundError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.engine.settings import EngineSettings
from slipway.engine.spec import LoadSpec

CACHE_RAM_MIB = 512
"""Memory for prompts of earlier requests; llama-server's own default of 8 GiB is a laptop's all."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A program that speaks llama-server's protocol and understands its flags.

    Attributes:
        name: shown by logs and `/metrics`.
        command: the program and its first arguments.
    """

    name: Literal["native", "embedded", "fake"]
    command: tuple[str, ...]

    def command_line(self, spec: LoadSpec, port: int) -> Sequence[str]:
        """The whole command for one worker."""
        return [*self.command, *flags(spec, port)]


def find_provider(settings: EngineSettings, home: Home) -> Provider:
    """The provider that the settings ask for.

    Raises:
        NotFoundError: `native` was asked for and there is no llama-server.
    """
    if settings.server is not None:
        if not settings.server.is_file():
            raise NotFoundError(
                "engine.no_server",
                tr("SLIPWAY_LLAMA_SERVER names {path}, which does not exist", path=settings.server),
                tr("correct it, or `unset {variable}`", variable="SLIPWAY_LLAMA_SERVER"),
            )
        return Provider("native", (str(settings.server),))
    if settings.engine != "embedded":
        server = _toolchain_server(home)
        if server is not None:
            return Provider("native", (str(server),))
        if settings.engine == "native":
            raise NotFoundError(
                "engine.no_server",
                tr("SLIPWAY_ENGINE is `native`, but there is no tested llama-server"),
                tr("install one with `slipway toolchain install`, or unset SLIPWAY_ENGINE"),
            )
    return Provider("embedded", (sys.executable, "-m", "slipway.engine.embedded_worker"))


def _toolchain_server(home: Home) -> Path | None:
    from slipway.export.toolchain import tested_toolchain

    toolchain = tested_toolchain(home)
    return toolchain.server if toolchain is not None else None


def flags(spec: LoadSpec, port: int) -> list[str]:
    """llama-server's flags for a spec.

    The context is given as slots * num_ctx with a split cache, because llama-server divides what
    it is given among its slots: so each request has all of num_ctx.
    """
    line = ["-m", str(spec.gguf), "--host", "127.0.0.1", "--port", str(port)]
    line += ["-c", str(spec.num_ctx * spec.slots), "-np", str(spec.slots)]
    # With a split cache llama.cpp pools several texts of a causal model wrongly (cosine 0.8).
    line += ["--kv-unified" if spec.mode == "embed" else "--no-kv-unified"]
    line += ["--no-ui", "--offline", "--metrics"]
    if spec.mode == "embed":
        # An embedding is one pass over the whole input, so a batch must hold all of it.
        line += ["--embedding", "-b", str(spec.num_ctx), "-ub", str(spec.num_ctx)]
        if spec.pooling:
            line += ["--pooling", spec.pooling]
    else:
        # The cache of earlier prompts does not know which adapters they were read with.
        line += ["--jinja", "--cache-ram", str(0 if spec.adapters else CACHE_RAM_MIB)]
        if spec.num_batch:
            line += ["-b", str(spec.num_batch)]
        if spec.cache_type:
            # A quantised V cache needs flash attention; `auto` would give it up where it is slow.
            line += ["-ctk", spec.cache_type, "-ctv", spec.cache_type, "-fa", "on"]
        if spec.projector:
            line += ["--mmproj", str(spec.projector)]
    if spec.template:
        line += ["--chat-template-file", str(spec.template)]
    for adapter in spec.adapters:
        line += ["--lora", str(adapter)]
    if spec.adapters and spec.mode == "generate":
        line += ["--lora-init-without-apply"]
    for flag, value in (
        ("-ngl", spec.num_gpu),
        ("--main-gpu", spec.main_gpu),
        ("--threads", spec.num_thread),
    ):
        if value is not None:
            line += [flag, str(value)]
    if spec.use_mmap is False:
        line += ["--load-mode", "none"]
    return line
