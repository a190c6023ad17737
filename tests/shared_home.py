"""Downloads and the native build outlast a test run, so that only the first on a machine pays.

They lie in SLIPWAY_TEST_CACHE, default ~/.cache/slipway-tests.
"""

from __future__ import annotations

import os
from pathlib import Path

from slipway.core.paths import Home

SHARED = ("bases", "toolchains", "cache")


def shared_home() -> Home:
    """The home that holds what test runs share."""
    place = os.environ.get("SLIPWAY_TEST_CACHE", "~/.cache/slipway-tests")
    return Home(Path(place).expanduser().resolve())


def link_shared_folders(home: Home) -> None:
    """Let a fresh home use the downloads and builds of earlier test runs."""
    shared = shared_home().root
    home.root.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (shared / name).mkdir(parents=True, exist_ok=True)
        (home.root / name).symlink_to(shared / name)
