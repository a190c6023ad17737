from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from slipway.core.errors import ToolError
from slipway.core.paths import Home
from slipway.core.process import free_port
from slipway.gateway import GatewayConfig, open_store, serve


@pytest.mark.usefixtures("impatient")
def test_a_gateway_that_cannot_start_is_an_error_and_not_a_quiet_end(home: Home) -> None:
    ready: list[bool] = []
    with closing(open_store()) as store, closing(sqlite3.connect(home.gateway_db)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ToolError) as caught:
            serve(store, GatewayConfig(port=free_port()), lambda: ready.append(True))
    assert caught.value.code == "server.start_failed"
    assert ready == []
