from __future__ import annotations

import pytest
from tests.shared_home import shared_home

from slipway.export.toolchain import Toolchain, install_toolchain


@pytest.fixture(scope="session")
def shared_tools() -> Toolchain:
    """llama.cpp's real programs; built on the first test run of a machine."""
    return install_toolchain(shared_home())


@pytest.fixture
def tools(shared_tools: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """The real programs, made visible to the test's empty home."""
    monkeypatch.setenv("SLIPWAY_TOOLCHAIN", str(shared_tools.folder))
    return shared_tools
