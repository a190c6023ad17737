from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.gateway.gateway_for_tests import BUSY_MS, MAX_BODY, PRICE, Gateway

from slipway.core.paths import Home
from slipway.gateway import (
    ChannelSpec,
    GatewayConfig,
    Store,
    add_channel,
    add_token,
    add_user,
    build_app,
    open_store,
)
from slipway.testing.asgi_server import AsgiServer
from slipway.testing.fake_upstream import FakeUpstream


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database opened after this gives up waiting for others soon."""
    monkeypatch.setattr("slipway.gateway.store.BUSY_TIMEOUT_MS", BUSY_MS)


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture
def gateway(store: Store, upstream: FakeUpstream) -> Iterator[Gateway]:
    add_user(store, "ada")
    _, key = add_token(store, "laptop", user="ada")
    add_channel(store, ChannelSpec("main", "slipway", upstream.url, price=PRICE))
    config = GatewayConfig(max_body_bytes=MAX_BODY, connect_timeout_s=1, idle_timeout_s=2)
    with AsgiServer(build_app(store, config)) as server:
        yield Gateway(server.url, key, store)
