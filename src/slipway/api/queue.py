"""GET /api/queue: who is served, who waits, and at which place."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.ollama import json_response


async def queue(request: Request) -> Response:
    """The queue of each model; `?request_id=` leaves only that request."""
    daemon: Daemon = request.app.state.daemon
    only = request.query_params.get("request_id")
    models: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        return models.setdefault(name, {"model": name, "active": 0, "slots": 0, "waiting": []})

    for resident in daemon.residency.residents():
        line = of(resident.name)
        line["active"] += resident.leases
        line["slots"] += resident.spec.slots
    for waiting in daemon.residency.queue():
        if only is None or waiting.id == only:
            of(waiting.name)["waiting"].append(
                {
                    "request_id": waiting.id,
                    "position": waiting.position,
                    "waited_ms": round(waiting.waited_s * 1e3),
                    "caller": waiting.caller,
                }
            )
    return json_response({"models": [line for _, line in sorted(models.items())]})
