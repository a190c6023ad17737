"""The model daemon as an ASGI application."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipway.api import (
    anthropic,
    embeddings,
    generate,
    ollama,
    ollama_blobs,
    ollama_create,
    ollama_models,
    ollama_registry,
    openai,
    openai_completions,
    openai_models,
    queue,
    rerank,
    responses,
    tokens,
)
from slipway.api.daemon import Daemon
from slipway.api.errors import CLIENT_CLOSED, body_for, status_of
from slipway.api.front import Front
from slipway.api.metrics import CONTENT_TYPE
from slipway.api.ollama import json_response
from slipway.api.streaming import ClientGoneError
from slipway.core.errors import NotFoundError, SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.engine.providers import Provider
from slipway.engine.settings import EngineSettings
from slipway.engine.table import BusyError

_ACCOUNTS = (
    "/api/me",
    "/api/signout",
    "/api/user/keys/{key:path}",
    "/api/experimental/{name:path}",
)

logger = logging.getLogger("slipway.api")


def build_app(
    home: Home,
    settings: EngineSettings | None = None,
    *,
    provider: Provider | None = None,
    loopback: bool = True,
    key: str = "",
) -> Starlette:
    """The daemon for one home; its workers live from lifespan start-up to shutdown.

    Args:
        provider: the worker program; None finds one as the settings say.
        loopback: it listens on a loopback address, so only names of this machine may be used.
        key: what every request must carry, as a bearer token or `x-api-key`; empty for none.
    """
    daemon = Daemon(home, settings or EngineSettings.from_env(), provider)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await daemon.start()
        try:
            yield
        finally:
            await daemon.close()

    app = Starlette(
        routes=_routes(),
        lifespan=lifespan,
        middleware=[Middleware(Front, daemon=daemon, loopback=loopback, key=key)],
        exception_handlers={
            SlipwayError: _on_error,
            HTTPException: _on_http_error,
            ClientGoneError: _on_gone,
            Exception: _on_bug,
        },
    )
    app.state.daemon = daemon
    return app


def _routes() -> list[Route]:
    return [
        Route("/", ollama_models.root),
        Route("/api/version", ollama_models.version),
        Route("/api/tags", ollama_models.tags),
        Route("/api/ps", ollama_models.ps),
        Route("/api/queue", queue.queue),
        Route("/api/create", ollama_create.create, methods=["POST"]),
        Route("/api/blobs/{digest}", ollama_blobs.blob, methods=["HEAD", "POST"]),
        Route("/api/pull", ollama_registry.pull, methods=["POST"]),
        Route("/api/push", ollama_registry.push, methods=["POST"]),
        Route("/api/status", ollama_create.status),
        *(
            Route(path, ollama_create.refused, methods=["POST", "GET", "DELETE"])
            for path in _ACCOUNTS
        ),
        Route("/api/show", ollama_models.show, methods=["POST"]),
        Route("/api/copy", ollama_models.copy, methods=["POST"]),
        Route("/api/delete", ollama_models.delete, methods=["DELETE"]),
        Route("/api/chat", ollama.chat, methods=["POST"]),
        Route("/api/generate", generate.generate, methods=["POST"]),
        Route("/api/embed", embeddings.embed, methods=["POST"]),
        Route("/api/embeddings", embeddings.legacy_embeddings, methods=["POST"]),
        Route("/v1/chat/completions", openai.chat_completions, methods=["POST"]),
        Route("/v1/completions", openai_completions.completions, methods=["POST"]),
        Route("/v1/responses", responses.responses, methods=["POST"]),
        Route("/v1/embeddings", embeddings.openai_embeddings, methods=["POST"]),
        *(
            Route(path, rerank.rerank, methods=["POST"])
            for path in ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking", "/api/rerank")
        ),
        Route("/v1/messages", anthropic.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", anthropic.count_tokens, methods=["POST"]),
        Route("/v1/models", openai_models.models),
        Route("/v1/models/{model:path}", openai_models.model),
        *(
            Route(f"{prefix}/{name}", handler, methods=["POST"])
            for prefix in ("", "/api", "/v1")
            for name, handler in (("tokenize", tokens.tokenize), ("detokenize", tokens.detokenize))
        ),
        Route("/metrics", _metrics),
    ]


async def _metrics(request: Request) -> Response:
    daemon: Daemon = request.app.state.daemon
    await daemon.measure_caches()
    return Response(daemon.metrics.render(), headers={"content-type": CONTENT_TYPE})


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlipwayError)
    daemon: Daemon = request.app.state.daemon
    daemon.metrics.failed(getattr(request.state, "model", ""), error)
    response = json_response(body_for(request.url.path, error), status_of(error))
    if isinstance(error, BusyError):
        response.headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return response


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    problem: SlipwayError
    if error.status_code == 405:
        problem = UsageError(
            "request.method", tr("{path} does not take {method}", path=path, method=request.method)
        )
    else:
        problem = NotFoundError("request.not_found", tr("there is nothing at {path}", path=path))
    problem.http_status = error.status_code
    response = json_response(body_for(path, problem), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.error("bug in %s %s", request.method, request.url.path, exc_info=error)
    bug = SlipwayError("internal", tr("internal error; the daemon's log has the details"))
    return json_response(body_for(request.url.path, bug), 500)
