"""Connections to channels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson

from slipway.core.errors import UsageError
from slipway.gateway.adapters import UpstreamRequest
from slipway.gateway.config import GatewayConfig
from slipway.gateway.outbound import GuardedResolver, Reach, check_host
from slipway.gateway.problems import ApiError

# shorter than servers keep idle connections, so that a request does not meet a closing one
_KEEPALIVE_S = 3.0


class NotConnectedError(Exception):
    """A channel gave no answer at all, so the request may go to another one."""


class Upstreams:
    """Pools of connections, one for each reach. Use within one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._sessions: dict[Reach, aiohttp.ClientSession] = {}

    async def send(
        self, request: UpstreamRequest, reach: Reach, request_id: str
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the answer's headers.

        Args:
            request_id: ours, sent along so that the channel's log can be joined with this one.

        Raises:
            NotConnectedError: the channel could not be connected to, or hung up without a byte.
            ApiError: 504 when it stayed silent.
        """
        try:
            check_host(urlsplit(request.url).hostname or "", reach)
            return await self._session(reach).post(
                request.url,
                data=request.body,
                headers={**request.headers, "X-Request-Id": request_id},
                allow_redirects=False,
            )
        except (
            aiohttp.ClientConnectionError,
            aiohttp.ClientPayloadError,
            OSError,
            UsageError,
        ) as error:
            if isinstance(error, aiohttp.SocketTimeoutError):
                raise ApiError(
                    504, "upstream_timeout", "The model's server did not answer in time."
                ) from error
            raise NotConnectedError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        # let the transports of closed connections go before the loop does
        await asyncio.sleep(0)

    def _session(self, reach: Reach) -> aiohttp.ClientSession:
        if reach not in self._sessions:
            self._sessions[reach] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, resolver=GuardedResolver(reach), keepalive_timeout=_KEEPALIVE_S
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._config.connect_timeout_s,
                    sock_read=self._config.idle_timeout_s,
                ),
                trust_env=False,
            )
        return self._sessions[reach]


def error_from_answer(
    status: int, headers: Mapping[str, str], body: bytes, request_id: str
) -> ApiError:
    """An upstream's error answer as the caller sees it, in OpenAI's shape.

    The upstream's refusal of the channel's own key is not the caller's: it becomes a 502 without
    the upstream's words, which may quote that key.
    """
    suffix = f" (request id: {request_id})"
    if status in (401, 403):
        return ApiError(
            502, "upstream_auth", f"The model's server refused the gateway's key.{suffix}"
        )
    if status < 400:
        return ApiError(
            502, "upstream_redirect", f"The model's server answered HTTP {status}.{suffix}"
        )
    said = _error_object(body)
    message = said.get("message") or f"The model's server answered HTTP {status}."
    retry = headers.get("Retry-After")
    code = said.get("code")
    return ApiError(
        status,
        str(code) if code is not None else _CODES.get(status, "upstream_error"),
        f"{message}{suffix}",
        type=said.get("type") if isinstance(said.get("type"), str) else None,
        param=said.get("param") if isinstance(said.get("param"), str) else None,
        headers={"Retry-After": retry} if retry else {},
    )


_CODES = {404: "model_not_found", 429: "rate_limit_exceeded"}


def _error_object(body: bytes) -> dict[str, Any]:
    """`{"error": {...}}`, Ollama's `{"error": "..."}`, or plain text."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:300].decode("utf-8", "replace").strip()}
    error = value.get("error", value) if isinstance(value, dict) else value
    return error if isinstance(error, dict) else {"message": str(error)[:2000]}
