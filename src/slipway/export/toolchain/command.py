"""The command line and environment that run one of llama.cpp's tools directly."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import NotFoundError, nearest
from slipway.core.i18n import tr
from slipway.export.toolchain.model import CONVERTER, LORA_CONVERTER, Toolchain

_CONVERTERS = {CONVERTER, LORA_CONVERTER}


@dataclass(frozen=True, slots=True)
class ToolCommand:
    """What to execute: arguments (the program first) and the whole environment."""

    argv: list[str]
    env: dict[str, str]


def tool_path(toolchain: Toolchain, name: str) -> Path:
    """The file of a program or converter; "llama-" and ".py" may be left out.

    Raises:
        NotFoundError: there is none of that name; the message offers the nearest.
    """
    for candidate in (name, f"llama-{name}", f"{name}.py"):
        if candidate in _CONVERTERS:
            path = toolchain.source / candidate
        else:
            path = toolchain.bin / candidate
        if "/" not in name and path.is_file() and (path.suffix or os.access(path, os.X_OK)):
            return path
    if f"llama-{name.removeprefix('llama-')}" in _buildable():
        return toolchain.program(f"llama-{name.removeprefix('llama-')}")  # says how to get it
    names = tool_names(toolchain)
    close = nearest(name, names)
    raise NotFoundError(
        "toolchain.unknown_program",
        tr("no tool `{name}` in {folder}", name=name, folder=str(toolchain.folder)),
        tr("did you mean {names}?", names=", ".join(f"`{n}`" for n in close))
        if close
        else tr("there are: {names}", names=", ".join(names)),
    )


def _buildable() -> set[str]:
    from slipway.export.toolchain.model import EXTRA_PROGRAMS, PROGRAMS

    return {*PROGRAMS, *EXTRA_PROGRAMS}


def tool_names(toolchain: Toolchain) -> list[str]:
    """The tools that can be run: programs, then converters."""
    programs = sorted(
        path.name
        for path in toolchain.bin.glob("llama-*")
        if not path.suffix and path.is_file() and os.access(path, os.X_OK)
    )
    return [*programs, *(n for n in sorted(_CONVERTERS) if (toolchain.source / n).is_file())]


def tool_command(
    toolchain: Toolchain, name: str, arguments: list[str], env: Mapping[str, str]
) -> ToolCommand:
    """How to run a tool with these arguments.

    A converter runs in this Python with the toolchain's own `gguf` package first on its path.

    Args:
        env: the environment to start from.

    Raises:
        NotFoundError: see `tool_path`.
    """
    path = tool_path(toolchain, name)
    if path.name not in _CONVERTERS:
        return ToolCommand([str(path), *arguments], dict(env))
    places = [str(toolchain.gguf_py), *filter(None, [env.get("PYTHONPATH")])]
    return ToolCommand(
        [sys.executable, str(path), *arguments],
        {**env, "PYTHONPATH": os.pathsep.join(places)},
    )
