"""What happens to every request: id, who may come in, errors, counting. Plain ASGI."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import secrets
import socket
import time
from urllib.parse import quote, urlsplit

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipway.api.context import RequestInfo, caller_of, enter, patience_of
from slipway.api.daemon import Daemon
from slipway.api.errors import CLIENT_CLOSED, body_for
from slipway.core.errors import AuthError, SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.core.log import FIELDS

logger = logging.getLogger("slipway.api")

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_OPEN = ("/", "/api/version")  # whether somebody is there may be asked without a key
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_APP_SCHEMES = {"app", "file", "tauri", "vscode-webview", "vscode-file"}


def host_is_local(host_header: str) -> bool:
    """Whether a Host header names this machine or a private address (guards DNS rebinding)."""
    name = _hostname(host_header)
    if name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def origin_is_local(origin: str) -> bool:
    """Whether a browser page of that origin may call us."""
    parts = urlsplit(origin)
    if parts.scheme in _APP_SCHEMES:
        return True
    return parts.scheme in ("http", "https") and (
        parts.hostname in ("localhost", "127.0.0.1", "0.0.0.0", "::1")
    )


def _hostname(host_header: str) -> str:
    value = host_header.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0]


class Front:
    """Gives each request an id, refuses strangers, and counts.

    A daemon on a loopback address answers only to names of this machine; a page of another origin
    is refused at any address.
    """

    def __init__(self, app: ASGIApp, daemon: Daemon, *, loopback: bool, key: str = "") -> None:
        self._app = app
        self._daemon = daemon
        self._loopback = loopback
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        request = Request(scope)
        given = request.headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        language = request.headers.get("accept-language", "")
        info = RequestInfo(
            id=request_id,
            caller=caller_of(request),
            chinese=language.lower().startswith("zh"),
        )
        enter(info)
        status = CLIENT_CLOSED

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    *info.answer_headers(),
                ]
            await send(message)

        try:
            refusal = self._refusal(request, info)
            if refusal is not None:
                await _refuse(scope, noted, refusal)
            else:
                await self._app(scope, receive, noted)
        finally:
            self._count(scope, status, time.monotonic() - begun, request_id, info.timings)

    def _refusal(self, request: Request, info: RequestInfo) -> SlipwayError | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
        if self._loopback and not host_is_local(host):
            return _forbidden("Host", host)
        if origin and not self._origin_allowed(origin, host):
            return _forbidden("Origin", origin)
        if self._key and request.url.path not in _OPEN and not self._has_key(request):
            return AuthError(
                "request.key",
                tr("this daemon wants its key"),
                tr("send it as `Authorization: Bearer KEY`, or set SLIPWAY_SERVE_KEY"),
            )
        try:
            info.patience_s = patience_of(request)
        except UsageError as error:
            return error
        return None

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        given = given or request.headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self._key.encode())

    def _origin_allowed(self, origin: str, host: str) -> bool:
        return origin_is_local(origin) or urlsplit(origin).netloc == host

    def _count(
        self,
        scope: Scope,
        status: int,
        seconds: float,
        request_id: str,
        timings: dict[str, float],
    ) -> None:
        route = getattr(scope.get("route"), "path", "other")
        model = scope["state"].get("model", "")
        metrics = self._daemon.metrics
        metrics.requests.labels(route, model, str(status)).inc()
        metrics.duration.labels(route).observe(seconds)
        logger.info(
            "%s %s %d %.1f ms model=%s id=%s",
            scope["method"],
            quote(scope["path"]),  # it was unquoted, and may hold a line break
            status,
            seconds * 1e3,
            model or "-",
            request_id,
            extra={
                FIELDS: {
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(seconds * 1e3, 1),
                    "model": model,
                    **{f"{name}_ms": round(value, 1) for name, value in timings.items()},
                }
            },
        )


def _forbidden(header: str, value: str) -> SlipwayError:
    error = UsageError(
        "request.forbidden", tr("{header} `{value}` is not allowed", header=header, value=value)
    )
    error.http_status = 403
    return error


async def _refuse(scope: Scope, send: Send, error: SlipwayError) -> None:
    body = orjson.dumps(body_for(scope["path"], error))
    headers = [(b"content-type", b"application/json; charset=utf-8")]
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
