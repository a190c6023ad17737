"""Run the daemon in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from slipway.core.errors import ToolError
from slipway.core.i18n import tr

GRACE_S = 5


class _Server(uvicorn.Server):
    """uvicorn, but a signal ends the run normally instead of being raised again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run_server`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, or say so: uvicorn logs the reason and exits with a code that means another."""
        try:
            await super().startup(sockets)
        except SystemExit as error:
            raise ToolError(
                "server.start_failed",
                tr("the server could not start"),
                tr("the reason is in the lines above, or in the log that `slipway status` names"),
            ) from error


def is_loopback(host: str) -> bool:
    """Whether a bind address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_server(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    on_ready: Callable[[int], None],
    grace_s: int = GRACE_S,
) -> None:
    """Serve until a signal, then return normally.

    Args:
        port: 0 takes a free one.
        on_ready: called with the port once connections are accepted.
        grace_s: seconds that running answers get to end.

    Raises:
        ToolError: the application could not start; its log says why.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=grace_s,
    )
    _spare_the_collector()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(_Server(config), on_ready))


def _spare_the_collector() -> None:
    """Let the garbage collector pass over what lives as long as the server, and look less often.

    Nearly all that a request makes is freed by its reference count; looking for cycles took 3 % of
    the time of a busy daemon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _serve(server: _Server, on_ready: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        on_ready(server.servers[0].sockets[0].getsockname()[1])
    await serving
