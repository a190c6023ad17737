from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from slipway.core.hardware import share_cores
from slipway.core.paths import Home

settings.register_profile("slipway", deadline=None)  # a test must not fail on a busy machine
settings.load_profile("slipway")
share_cores()  # before any test module loads torch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A fresh SLIPWAY_HOME and English for every test."""
    folder = tmp_path / "slipway-home"
    monkeypatch.setenv("SLIPWAY_HOME", str(folder))
    monkeypatch.setenv("SLIPWAY_LANG", "en")
    return Home(folder.resolve())
