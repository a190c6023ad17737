"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.ollama import json_response
from slipway.core.errors import SlipwayError
from slipway.store import ModelManifest, list_models


async def models(request: Request) -> Response:
    """The models of the store, newest first."""
    daemon: Daemon = request.app.state.daemon
    problems: list[SlipwayError] = []
    found = await asyncio.to_thread(list_models, daemon.home, problems=problems)
    return json_response({"object": "list", "data": [_object(model) for model in found]})


async def model(request: Request) -> Response:
    """One model."""
    daemon: Daemon = request.app.state.daemon
    return json_response(_object(await daemon.resolve(request.path_params["model"])))


def _object(model: ModelManifest) -> dict[str, Any]:
    return {
        "id": model.name.display,
        "object": "model",
        "created": int(model.modified_at.timestamp()),
        "owned_by": model.name.namespace,
    }
