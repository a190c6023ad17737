from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from slipway.cli.commands import doctor


def test_a_missing_engine_is_not_called_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_ENGINE", "embedded")
    real = importlib.util.find_spec

    def without(name: str, *more: Any) -> Any:
        return None if name == "xllamacpp" else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    row = next(row for row in doctor.tools() if row[0] == "engine")
    assert row[1] == "missing" and "pip install xllamacpp" in str(row[3])


def test_what_is_missing_comes_with_a_command() -> None:
    checks = doctor.machine() + doctor.programs() + doctor.packages() + doctor.tools()
    for name, state, _, fix in checks:
        assert state != "missing" or "`" in str(fix), name
