"""The daemon that a command talks to: its address, and starting it when nobody listens there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from slipway.cli.output import note
from slipway.core.errors import SlipwayError, UnreachableError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home

if TYPE_CHECKING:
    from slipway.client import DaemonClient

_PORT = 11434
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_LOCAL = ("127.0.0.1", "localhost", "::1")

url_option: Callable[[Any], Any] = click.option(
    "--url",
    help=str(tr("The daemon's address; default: OLLAMA_HOST, or the daemon of this machine.")),
)


def addresses(given: str | None, home: Home) -> list[str]:
    """Where the daemon may be: what was given, else OLLAMA_HOST, else our service, the default.

    Raises:
        UsageError: OLLAMA_HOST or the given address cannot be read.
    """
    if given:
        return [base_url(given, "--url")]
    if named := os.environ.get("OLLAMA_HOST", "").strip():
        return [base_url(named, "OLLAMA_HOST")]
    found = [f"http://127.0.0.1:{_PORT}"]
    try:
        record = json.loads((home.services / "serve.json").read_text("utf-8"))
        found.insert(0, base_url(record["url"], "serve.json"))
    except (OSError, ValueError, LookupError, TypeError, SlipwayError):
        pass  # no service, or a broken record: `slipway status` tells
    return list(dict.fromkeys(found))


def base_url(text: str, source: str) -> str:
    """`[http://]host[:port]` as Ollama reads OLLAMA_HOST, where to connect instead of to listen.

    Raises:
        UsageError: it is no such address; `source` is where it was given.
    """
    text = text.strip().strip("\"'")
    has_scheme = re.match(r"[a-z]+://", text) is not None
    if not has_scheme and text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # an IPv6 address alone
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        port = parts.port
    except ValueError:
        port = -1
    if port == -1 or parts.scheme not in ("http", "https") or parts.query:
        raise UsageError(
            "daemon.bad_address",
            tr("`{value}` in {source} is no address of a daemon", value=text, source=source),
            tr("write the address like `http://127.0.0.1:11434`"),
        )
    if port is None:
        port = {"http": 80, "https": 443}[parts.scheme] if has_scheme else _PORT
    host = parts.hostname or ""
    host = _EVERYWHERE.get(host, host)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}{parts.path}".rstrip("/")


def connect(url: str | None, *, may_start: bool = False) -> DaemonClient:
    """A client of the daemon.

    Args:
        url: an address from the command line; None finds one.
        may_start: start our daemon in the background when nobody answers on this machine and no
            address was given; says so on stderr.

    Raises:
        UnreachableError: nobody answers.
        ToolError: the daemon could not be started.
    """
    from slipway.client import DaemonClient

    home = Home.current()
    places = addresses(url, home)
    for place in places:
        daemon = DaemonClient(place)
        try:
            daemon.version()
            return daemon
        except SlipwayError as error:
            daemon.close()
            if not isinstance(error, UnreachableError) and len(places) == 1:
                raise
    where = places[-1]
    if not may_start or url is not None or urlsplit(where).hostname not in _LOCAL:
        raise UnreachableError(
            "daemon.not_running",
            tr("no model daemon answers at {url}", url=where),
            tr("start it with `slipway serve`, or name another with `--url`"),
        )
    _start(home, where)
    return DaemonClient(where)


def _start(home: Home, url: str) -> None:
    from slipway.core.files import locked
    from slipway.jobs.services import answers, start_service

    parts = urlsplit(url)
    with locked(home.services / "serve"):  # of two that come at once, the second finds it running
        if answers(url):
            return
        note(tr("starting the model daemon in the background ({url})", url=url))
        listen = ["--host", parts.hostname or "127.0.0.1", "--port", str(parts.port or _PORT)]
        start_service(home, "serve", ["serve", *listen], url=url)
        note(tr("it goes on running; stop it with `slipway down`"))
