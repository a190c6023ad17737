"""One engine worker: a child process with llama-server's HTTP on a loopback port of its own."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import aiohttp
import psutil

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.core.i18n import tr
from slipway.engine.providers import Provider
from slipway.engine.spec import LoadSpec

_POLL_S = 0.05
_MAX_LOG_BYTES = 8 << 20


class Worker(Protocol):
    """What residency needs of a worker; a fake for its tests implements this."""

    base_url: str
    key: str

    def is_running(self) -> bool:
        """Whether the process is there."""
        ...

    async def healthy(self, timeout_s: float) -> bool:
        """Whether it runs and answers."""
        ...

    async def stop(self) -> None:
        """End it, however it feels, and return when it is gone."""
        ...

    def memory_bytes(self) -> int:
        """Memory it uses now; 0 when it is gone."""
        ...


Launcher = Callable[[LoadSpec], Awaitable[Worker]]
"""Starts a worker and returns when it is ready, or raises a SlipwayError."""


class WorkerProcess:
    """A running worker; made by `launch`.

    Attributes:
        base_url: where it listens.
        key: a random key that every request must carry, so that nobody else on this machine, and
            no other worker that took the port, can be spoken to by mistake.
    """

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        port: int,
        key: str,
        log: Path,
        session: aiohttp.ClientSession,
    ) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self.key = key
        self.log = log
        self._child = child
        self._session = session

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._child.poll() is None

    async def healthy(self, timeout_s: float) -> bool:
        """Whether it runs and answers."""
        if not self.is_running():
            return False
        with suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.get(f"{self.base_url}/health", timeout=timeout) as answer:
                return answer.status == 200
        return False

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; returns when the process is gone."""
        await asyncio.to_thread(process.stop, self._child)

    def memory_bytes(self) -> int:
        """Resident memory, weights mapped from the file included."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


async def launch(
    spec: LoadSpec,
    provider: Provider,
    session: aiohttp.ClientSession,
    *,
    logs: Path,
    timeout_s: float,
) -> WorkerProcess:
    """Start a worker and wait until it has loaded its model.

    Must be called on the thread that lives as long as the daemon (see `process.die_with_parent`).

    Raises:
        ToolError: the process ended, or did not become ready in `timeout_s`; the message quotes
            the end of its log.
    """
    key = secrets.token_hex(16)
    log = logs / f"engine-{spec.gguf.name.removeprefix('sha256-')[:12]}-{spec.mode}.log"
    if log.is_file() and log.stat().st_size > _MAX_LOG_BYTES:
        log.unlink()
    port = process.free_port()
    child = process.start([*provider.command_line(spec, port)], log=log, env={"LLAMA_API_KEY": key})
    worker = WorkerProcess(child, port, key, log, session)
    deadline = time.monotonic() + timeout_s
    try:
        while not await worker.healthy(timeout_s=5.0):
            if not worker.is_running():
                raise _load_failed(f"exit {child.returncode}", log)
            if time.monotonic() > deadline:
                raise _load_failed(f"not ready after {timeout_s:.0f} s", log)
            await asyncio.sleep(_POLL_S)
    except BaseException:
        await asyncio.shield(worker.stop())
        raise
    return worker


def _load_failed(reason: str, log: Path) -> ToolError:
    return ToolError(
        "engine.load_failed",
        tr(
            "the engine could not load the model ({reason}): {log}",
            reason=reason,
            log=process.log_tail(log, 6) or "(no output)",
        ),
        tr("see the whole log: {path}", path=log),
    )
