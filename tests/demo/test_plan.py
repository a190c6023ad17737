from __future__ import annotations

import pytest

from slipway.core.paths import Home
from slipway.demo.options import DemoOptions
from slipway.demo.plan import _default_base


def test_default_base_stays_the_same_when_the_network_changes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["starter", "ms://Qwen/Qwen2.5-0.5B-Instruct"])
    monkeypatch.setattr("slipway.store.pull.default_base", lambda language: next(answers))
    assert _default_base(home, DemoOptions()) == "starter"
    assert _default_base(home, DemoOptions()) == "starter"
    assert _default_base(home, DemoOptions(fresh=True)).endswith("Qwen2.5-0.5B-Instruct")
