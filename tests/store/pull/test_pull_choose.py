from __future__ import annotations

import time

import pytest

from slipway.store.pull import STARTER, default_base, hub_reachable, reachable_hubs
from slipway.store.pull.choose import HUB_BASE
from slipway.testing.fake_hub import FakeHub


@pytest.mark.parametrize(("language", "first", "other"), [("zh", "ms", "hf"), ("en", "hf", "ms")])
def test_the_default_base_is_the_readers_hub_then_the_other_then_the_starter(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, language: str, first: str, other: str
) -> None:
    hub.id = HUB_BASE
    assert default_base(language) == f"{first}://{HUB_BASE}"  # type: ignore[arg-type]
    monkeypatch.setenv(f"SLIPWAY_{first.upper()}_ENDPOINT", "http://127.0.0.1:9")
    assert default_base(language) == f"{other}://{HUB_BASE}"  # type: ignore[arg-type]
    hub.page_of_login = True
    assert default_base(language) == STARTER  # type: ignore[arg-type]


def test_a_hub_that_answers_is_reachable_and_the_offline_switch_hides_it(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.id = HUB_BASE
    assert hub_reachable()
    assert reachable_hubs() == {"ms", "hf"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub_reachable()


def test_a_name_server_that_never_answers_costs_no_more_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(2.0)
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", hang)
    monkeypatch.setenv("SLIPWAY_HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("SLIPWAY_MS_ENDPOINT", "http://hub.invalid")
    started = time.monotonic()
    assert not hub_reachable(timeout_s=0.3)
    assert default_base("en", timeout_s=0.3) == STARTER
    assert time.monotonic() - started < 1.5
