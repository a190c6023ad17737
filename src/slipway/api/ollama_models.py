"""Ollama's routes about models: version, tags, ps, show, copy, delete."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from slipway import __version__
from slipway.api.daemon import Daemon
from slipway.api.ollama import json_response
from slipway.api.schemas import CopyBody, NameBody, read_body
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.store import ModelManifest, copy_model, list_models, remove_model, resolve_model
from slipway.store.describe import capabilities_of, describe_model, details, timestamp

logger = logging.getLogger("slipway.api")


async def root(request: Request) -> Response:
    """GET /; clients look for this text to know that the server is there."""
    return PlainTextResponse("Ollama is running")


async def version(request: Request) -> Response:
    """GET /api/version."""
    return json_response({"version": __version__})


async def tags(request: Request) -> Response:
    """GET /api/tags."""
    daemon: Daemon = request.app.state.daemon

    def read() -> list[dict[str, Any]]:
        problems: list[SlipwayError] = []
        found = list_models(daemon.home, problems=problems)
        for problem in problems:
            logger.warning("a model is left out of the list: %s", problem)
        return [_listed(model) for model in found]

    return json_response({"models": await asyncio.to_thread(read)})


async def ps(request: Request) -> Response:
    """GET /api/ps: size is the worker's resident memory; context_length the one in force."""
    daemon: Daemon = request.app.state.daemon
    now = datetime.now(UTC)
    models = []
    for resident in daemon.residency.residents():
        try:
            model = await daemon.resolve(resident.name)
            digest, facts = model.digest, details(model)
        except SlipwayError:
            digest, facts = "", {}  # its name was removed; its memory is still taken
        models.append(
            {
                "name": resident.name,
                "model": resident.name,
                "size": resident.memory_bytes,
                "digest": digest,
                "details": facts,
                "expires_at": timestamp(now + timedelta(seconds=resident.expires_in_s)),
                "size_vram": 0,
                "context_length": resident.spec.num_ctx,
            }
        )
    return json_response({"models": models})


async def show(request: Request) -> Response:
    """POST /api/show."""
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, NameBody)
    if not body.wanted:
        raise UsageError("request.no_model", tr("model is required"))

    def read() -> dict[str, Any]:
        model = resolve_model(body.wanted, home=daemon.home)
        return describe_model(model, verbose=body.verbose)

    return json_response(await asyncio.to_thread(read))


async def delete(request: Request) -> Response:
    """DELETE /api/delete."""
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, NameBody)
    if not body.wanted:
        raise UsageError("request.no_model", tr("model is required"))
    try:
        model = await daemon.resolve(body.wanted)
        daemon.residency.unload(model.gguf_path)
    except SlipwayError as error:
        if error.http_status == 404:
            raise  # else the name is damaged, and removing it is the cure
    await asyncio.to_thread(remove_model, body.wanted, home=daemon.home)
    return Response(status_code=200)


async def copy(request: Request) -> Response:
    """POST /api/copy: a second name for a model."""
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, CopyBody)
    if not body.source or not body.destination:
        raise UsageError("request.no_model", tr("source and destination are required"))
    await asyncio.to_thread(copy_model, body.source, body.destination, home=daemon.home)
    return Response(status_code=200)


def _listed(model: ModelManifest) -> dict[str, Any]:
    try:
        facts, abilities = details(model), capabilities_of(model)
    except SlipwayError as error:  # one damaged model must not hide the others
        logger.warning("%s is damaged: %s", model.name, error)
        facts, abilities = {}, []
    return {
        "name": model.name.display,
        "model": model.name.display,
        "modified_at": timestamp(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": facts,
        "capabilities": abilities,
    }
