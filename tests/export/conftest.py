from __future__ import annotations

import pytest

from slipway.core.paths import Home
from slipway.export.toolchain import Toolchain, find_toolchain

REAL_HOME = Home.current()  # read at import, before each test gets a home of its own


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """The machine's own llama.cpp, made visible to the test's empty home."""
    found = find_toolchain(REAL_HOME)
    if found is None:
        pytest.skip("no llama.cpp here; `slipway toolchain install` makes these tests run")
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(found.folder))
    return found
