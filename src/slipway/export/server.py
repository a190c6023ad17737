"""A short-lived `llama-server` on a loopback port, for proofs and measurements.

Serving models to people is the engine layer's work; this one answers a single caller and ends with
the `with` block.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.core import process
from slipway.core.errors import ToolError
from slipway.core.i18n import tr
from slipway.export.toolchain import Toolchain

if TYPE_CHECKING:
    import httpx

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A running `llama-server`.

    Attributes:
        url: its address, without a trailing slash.
        load_s: seconds from the start of the process until it answered that the model is loaded.
        log: its log file.
    """

    url: str
    load_s: float
    log: Path
    child: subprocess.Popen[bytes]
    client: httpx.Client

    def get(self, path: str) -> Any:
        """The JSON answer to a GET.

        Raises:
            ToolError: the server answered with an error or ended.
        """
        return self._answer("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST; see `get`."""
        return self._answer("POST", path, body)

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        import httpx

        try:
            answer = self.client.request(method, self.url + path, json=body)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            detail = process.log_tail(self.log)
            raise ToolError(
                "server.failed",
                tr(
                    "`llama-server` did not answer {path}: {reason}\n{log}",
                    path=path,
                    reason=str(error) or type(error).__name__,
                    log=detail,
                ),
            ) from error

    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of the process so far; None where /proc does not say."""
        try:
            text = Path(f"/proc/{self.child.pid}/status").read_text()
        except OSError:
            return None
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


@contextmanager
def served(
    toolchain: Toolchain,
    model: Path,
    arguments: Sequence[str] = (),
    *,
    load_timeout_s: float = 600.0,
    answer_timeout_s: float = 600.0,
) -> Iterator[Server]:
    """Run `llama-server` on `model` for the length of the block.

    Args:
        arguments: further command-line arguments.
        answer_timeout_s: longest wait for one answer.

    Raises:
        ToolError: the server ended or was not ready in time; its log is quoted.
    """
    flags: list[str | Path] = ["-m", model, "--offline", "-fit", "off", "--no-ui", *arguments]
    with serving(
        [toolchain.server, *flags],
        load_timeout_s=load_timeout_s,
        answer_timeout_s=answer_timeout_s,
    ) as server:
        yield server


@contextmanager
def serving(
    command: Sequence[str | Path],
    *,
    load_timeout_s: float = 600.0,
    answer_timeout_s: float = 600.0,
) -> Iterator[Server]:
    """Run any program with llama-server's protocol for the length of the block.

    Args:
        command: the program and all its arguments but `--host` and `--port`.
        answer_timeout_s: longest wait for one answer.

    Raises:
        ToolError: the server ended or was not ready in time; its log is quoted.
    """
    import httpx

    with tempfile.TemporaryDirectory(prefix="slipway-server-") as folder:
        log = Path(folder) / "server.log"
        port = process.free_port()
        started = time.monotonic()
        child = process.start(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            log=log,
        )
        url = f"http://127.0.0.1:{port}"
        limits = httpx.Limits(max_connections=64)
        # a proxy from the environment must not see loopback traffic
        with httpx.Client(timeout=answer_timeout_s, limits=limits, trust_env=False) as client:
            try:
                _wait_ready(child, client, url, log, started + load_timeout_s)
                yield Server(url, time.monotonic() - started, log, child, client)
            finally:
                process.stop(child)


def _wait_ready(
    child: subprocess.Popen[bytes], client: httpx.Client, url: str, log: Path, deadline: float
) -> None:
    import httpx

    while child.poll() is None and time.monotonic() < deadline:
        try:
            if client.get(url + "/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(_POLL_S)
    reason = "timeout" if child.poll() is None else f"exit {child.returncode}"
    raise ToolError(
        "tool.failed",
        tr(
            "`{program}` failed ({reason}): {log}",
            program="llama-server",
            reason=reason,
            log=process.log_tail(log) or "(no output)",
        ),
    )
