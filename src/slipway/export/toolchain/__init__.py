"""llama.cpp's own programs of one pinned release: find them, or build and test them.

`find_toolchain` only looks; `install_toolchain` builds. Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.export.toolchain.find import find_toolchain
from slipway.export.toolchain.model import Toolchain
from slipway.export.toolchain.ready import require_toolchain, tested_toolchain

if TYPE_CHECKING:
    from slipway.export.toolchain.install import install_toolchain

__all__ = [
    "Toolchain",
    "find_toolchain",
    "install_toolchain",
    "require_toolchain",
    "tested_toolchain",
]


def __getattr__(name: str) -> Any:
    if name == "install_toolchain":
        from slipway.export.toolchain.install import install_toolchain

        return install_toolchain
    raise AttributeError(name)
