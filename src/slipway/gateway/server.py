"""Runs the gateway in this process until it is told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
    """
    import uvicorn

    require_port(config.host, config.port, "slipway gateway serve")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
            await super().startup(sockets)  # type: ignore[arg-type]
            if self.started:
                on_ready()

    settings = uvicorn.Config(
        build_app(store, config),
        host=config.host,
        port=config.port,
        access_log=False,
        log_config=None,
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    Server(settings).run()
