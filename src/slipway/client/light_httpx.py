"""httpx without its command line, whose import takes longer than all the rest of it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, cast


def prepare_httpx() -> None:
    """Import httpx, so that an `import httpx` afterwards finds it.

    httpx imports its own command line (click, rich, pygments) where it is installed, and goes
    without it where it is not: here it is told that it is not.
    """
    if "httpx" in sys.modules:
        return
    modules = cast("dict[str, Any]", sys.modules)
    modules["httpx._main"] = None  # an import of it raises ImportError, which httpx expects
    try:
        import_module("httpx")
    finally:
        del modules["httpx._main"]
