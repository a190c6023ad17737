"""A real HTTP server around an ASGI application, in a thread, for tests."""

from __future__ import annotations

import threading
import time
from typing import Any, Self

import uvicorn

_START_TIMEOUT_S = 10


class AsgiServer:
    """Serves an application on a free loopback port while the block runs; `url` says where."""

    def __init__(self, app: Any) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, port=0, log_config=None, access_log=False, ws="none", lifespan="on",
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError("the server did not start")
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
