"""The gateway's HTTP face: the relay, the list of models, the chat page, health and metrics."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from slipway.gateway.accounts import Token, authenticate
from slipway.gateway.channels import load_channels
from slipway.gateway.clock import now_ms
from slipway.gateway.config import GatewayConfig
from slipway.gateway.exchange import new_request_id
from slipway.gateway.feedback.keep import purge_expired
from slipway.gateway.feedback.record import read_feedback, save_feedback
from slipway.gateway.ledger import recover
from slipway.gateway.metrics import CONTENT_TYPE, Metrics
from slipway.gateway.pages import page_routes
from slipway.gateway.problems import ApiError, admins_only, bad_request, model_not_found
from slipway.gateway.relay import ENDPOINTS, Relay, bearer_key, send_error
from slipway.gateway.routing import Channel, resolve_model
from slipway.gateway.store import Store

log = logging.getLogger("slipway.gateway")


class GatewayApp:
    """The ASGI application; make it with `build_app`.

    Every answer carries `X-Request-Id`. Requests to the relay's endpoints take the short way;
    everything else goes through Starlette.
    """

    def __init__(self, store: Store, config: GatewayConfig) -> None:
        self._store = store
        self._metrics = Metrics()
        self._relay = Relay(store, config, self._metrics)
        self._pages = Starlette(
            routes=[
                Route("/v1/models", self._list_models),
                Route("/v1/models/{model:path}", self._show_model),
                Route("/api/explain", self._explain, methods=["POST"]),
                Route("/v1/feedback", self._take_feedback, methods=["POST"]),
                Route("/healthz", self._health),
                Route("/metrics", self._show_metrics),
                *page_routes(),
            ],
            exception_handlers={
                ApiError: _answer_api_error,
                HTTPException: _answer_http_error,
                Exception: _answer_bug,
            },
            lifespan=self._lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        request_id = scope["slipway.request_id"] = new_request_id()

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        if scope["path"] not in ENDPOINTS:
            await self._pages(scope, receive, tagged)
        elif scope["method"] != "POST":
            problem = ApiError(405, None, "Use POST.", headers={"Allow": "POST"})
            await send_error(tagged, problem)
        else:
            await self._relay(scope, receive, tagged)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        released = await self._relay.directory.in_database(recover, self._store)
        if released:
            log.warning("released the reserves of %d requests that a dead gateway left", released)
        await self._relay.directory.in_database(purge_expired, self._store)
        try:
            yield
        finally:
            await self._relay.shut_down()

    async def _list_models(self, request: Request) -> Response:
        token, channels = await self._offered(request)
        rows: dict[str, dict[str, Any]] = {}
        for channel in channels:
            for name in channel.models:
                if channel.enabled and token.allows(name):
                    rows.setdefault(name, _model_row(name, channel))
        data = [rows[name] for name in sorted(rows)]
        return JSONResponse({"object": "list", "data": data})

    async def _show_model(self, request: Request) -> Response:
        token, channels = await self._offered(request)
        asked = request.path_params["model"]
        name = resolve_model(channels, asked)
        if name is None or not (token.allows(asked) or token.allows(name)):
            raise model_not_found(asked)
        channel = next(c for c in channels if c.enabled and name in c.models)
        return JSONResponse(_model_row(name, channel))

    async def _offered(self, request: Request) -> tuple[Token, list[Channel]]:
        key = bearer_key(dict(request.scope["headers"]))

        def load() -> tuple[Token, list[Channel]]:
            with self._store.read() as db:
                return authenticate(db, key, now_ms()), load_channels(db)

        return await self._relay.directory.in_database(load)

    async def _explain(self, request: Request) -> Response:
        """POST /api/explain: where a request with this body would go, for an administrator.

        `?group=` asks for users of another group than the key's own.
        """
        directory = self._relay.directory
        key = bearer_key(dict(request.scope["headers"]))
        # a key or channel that was just changed must be seen here, too
        catalogue = await directory.catalogue(await directory.newest())
        known = await directory.key(key, now_ms())
        if known.role != "admin":
            raise admins_only()
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            raise bad_request(f"The body is not JSON: {error}.", code="invalid_json") from error
        if not isinstance(body, dict):
            raise bad_request("The body must be a JSON object.", code="invalid_json")
        group = request.query_params.get("group", known.token.group)
        return JSONResponse(self._relay.sender.explain(catalogue, body, group).as_json())

    async def _take_feedback(self, request: Request) -> Response:
        key = bearer_key(dict(request.scope["headers"]))
        given = await read_feedback(request)
        saved = await self._relay.directory.in_database(save_feedback, self._store, key, given)
        return JSONResponse(saved)

    async def _health(self, _request: Request) -> Response:
        def ping() -> None:
            with self._store.read() as db:
                db.exec_driver_sql("SELECT 1 FROM tokens LIMIT 1")

        await self._relay.directory.in_database(ping)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)


def build_app(store: Store, config: GatewayConfig | None = None) -> GatewayApp:
    """The gateway as an ASGI application over an open database; the caller closes the database."""
    return GatewayApp(store, config or GatewayConfig())


def _model_row(name: str, channel: Channel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": channel.created_at // 1000,
        "owned_by": channel.kind,
    }


async def _answer_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.as_json(), error.status, error.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = (
        f"There is no {request.method} {request.url.path} here."
        if error.status_code in (404, 405)
        else error.detail
    )
    problem = ApiError(
        error.status_code, "not_found" if error.status_code == 404 else None, message
    )
    return JSONResponse(problem.as_json(), error.status_code, error.headers)


async def _answer_bug(request: Request, error: Exception) -> Response:
    request_id = request.scope["slipway.request_id"]
    problem = ApiError(500, "internal_error", f"The gateway failed (request id: {request_id}).")
    return JSONResponse(problem.as_json(), 500)
