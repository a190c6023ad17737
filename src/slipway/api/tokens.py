"""POST /api/tokenize, /api/detokenize: token ids of a text and back, as the engine has them.

The same answer at `/tokenize`, `/detokenize` and under `/v1`; the fields are llama-server's, with
`model` beside them.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.job import Job
from slipway.api.ollama import json_response
from slipway.api.schemas import DetokenizeBody, KeepAlive, TokenizeBody, read_body
from slipway.api.streaming import until_gone
from slipway.engine.spec import Mode
from slipway.store.describe import capabilities_of


async def tokenize(request: Request) -> Response:
    """POST /api/tokenize: `content` as token ids, with their texts when `with_pieces` is set."""
    body = await read_body(request, TokenizeBody)
    job = await _job(request, body.model, body.keep_alive)

    async def ids() -> list[Any]:
        async with job.lease() as lease:
            job.begun(lease)
            return await job.client.tokenize(
                lease,
                body.content,
                special=body.add_special,
                parse_special=body.parse_special,
                pieces=body.with_pieces,
            )

    return json_response({"tokens": await until_gone(request, ids())})


async def detokenize(request: Request) -> Response:
    """POST /api/detokenize: the text of `tokens`."""
    body = await read_body(request, DetokenizeBody)
    job = await _job(request, body.model, body.keep_alive)

    async def text() -> str:
        async with job.lease() as lease:
            job.begun(lease)
            return await job.client.detokenize(lease, body.tokens)

    return json_response({"content": await until_gone(request, text())})


async def _job(request: Request, name: str, keep_alive: KeepAlive) -> Job:
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(name)
    request.state.model = model.display
    mode: Mode = "generate" if "completion" in capabilities_of(model) else "embed"
    return daemon.prepare(model, {}, keep_alive, mode)
