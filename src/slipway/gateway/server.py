"""Runs the gateway in this process until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable

from slipway.api import run_server
from slipway.core.process import require_port
from slipway.gateway.app import build_app
from slipway.gateway.config import GatewayConfig
from slipway.gateway.store import Store

# how long answers may go on after SIGTERM or Ctrl-C; whoever stops a service kills it after 5 s
_GRACE_S = 2


def serve(store: Store, config: GatewayConfig, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; running answers get some seconds to end.

    Args:
        on_ready: called when the port is open.

    Raises:
        ConflictError: the port is taken.
        ToolError: the gateway could not start.
    """
    require_port(config.host, config.port, "slipway gateway serve")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run_server(
        build_app(store, config),
        config.host,
        config.port,
        on_ready=lambda _port: on_ready(),
        grace_s=_GRACE_S,
    )
