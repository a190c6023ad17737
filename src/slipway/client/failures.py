"""What goes wrong between a client and the daemon, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from slipway.core.errors import (
    AuthError,
    ConflictError,
    NotFoundError,
    ResourceError,
    SlipwayError,
    ToolError,
    UnreachableError,
    UsageError,
)
from slipway.core.i18n import Text, tr

if TYPE_CHECKING:
    import httpx

_KINDS: dict[int, type[SlipwayError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
    429: UnreachableError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
    507: ResourceError,
}


class Explained:
    """A context that turns httpx's failures into errors for the reader.

    Args:
        start: what to type when nobody answers.
    """

    def __init__(self, url: str, start: Text | None = None) -> None:
        self._url = url
        self._start = start or tr(
            "start the daemon with `slipway serve`, or name another with `--url`"
        )

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        import httpx

        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            raise ToolError(
                "client.connection_lost",
                tr("{url} broke off before the end of its answer", url=self._url),
                tr("see whether it still runs with `slipway status`"),
            ) from error
        if isinstance(error, httpx.HTTPError):
            raise UnreachableError(
                "client.unreachable",
                tr("{url} does not answer ({reason})", url=self._url, reason=type(error).__name__),
                self._start,
            ) from error


def error_of_answer(response: httpx.Response) -> SlipwayError:
    """The error for an answer of the daemon that is not 200: its own code, message and hint."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, Mapping) or not isinstance(body.get("error"), str):
        body = {"error": f"HTTP {response.status_code} from {response.url}"}
    status = response.status_code
    error = error_of_line(body, _KINDS.get(status, UsageError if status < 500 else ToolError))
    wait = response.headers.get("retry-after", "")
    if wait.isdigit() and not str(error.hint):
        error.hint = tr("try again in {seconds} s", seconds=int(wait))
    return error


def error_of_line(line: Mapping[str, Any], kind: type[SlipwayError] = ToolError) -> SlipwayError:
    """The error that a line of an answer, or a body, describes in Ollama's shape."""
    code, message, hint = line.get("code"), str(line["error"]), line.get("hint")
    local = line.get("local")
    if isinstance(local, Mapping):  # the same in the language that this client asked for
        message, hint = str(local.get("error") or message), local.get("hint")
    return kind(
        code if isinstance(code, str) else "client.daemon_failed",
        message,
        hint if isinstance(hint, str) else "",
    )
