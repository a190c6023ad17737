"""POST /api/pull and /api/push: models from and to registries, with Ollama's progress lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.ollama import NDJSON, json_response
from slipway.api.ollama_create import last_line, told
from slipway.api.schemas import TransferBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.store.names import ModelName
from slipway.store.registry import pull_model, push_model
from slipway.store.registry.rules import Line


async def pull(request: Request) -> Response:
    """POST /api/pull."""
    body = await read_body(request, TransferBody)
    daemon: Daemon = request.app.state.daemon
    name = _wanted(body)
    return await _answer(request, body, pull_model(name, home=daemon.home, insecure=body.insecure))


async def push(request: Request) -> Response:
    """POST /api/push."""
    body = await read_body(request, TransferBody)
    daemon: Daemon = request.app.state.daemon
    name = _wanted(body)
    return await _answer(request, body, push_model(name, home=daemon.home, insecure=body.insecure))


def _wanted(body: TransferBody) -> str:
    if not body.wanted:
        raise UsageError("request.no_model", tr("model is required"))
    ModelName.parse(body.wanted)
    return body.wanted


async def _answer(request: Request, body: TransferBody, steps: Iterator[Line]) -> Response:
    lines = _in_a_thread(steps)
    if not body.stream:
        return json_response(await until_gone(request, last_line(lines)))
    return StreamedResponse(told(lines), NDJSON)


async def _in_a_thread(steps: Iterator[Line]) -> AsyncGenerator[Line, None]:
    """The lines of a transfer; when nobody reads on it is closed, and can be resumed."""
    step: asyncio.Future[Line | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, None))
            line = await asyncio.shield(step)
            if line is None:
                return
            yield line
    finally:
        loop = asyncio.get_running_loop()

        def close(done: asyncio.Future[Line | None] | None) -> None:
            if done is not None:
                with suppress(BaseException):
                    done.result()
            loop.run_in_executor(None, steps.close)  # type: ignore[attr-defined]

        if step is not None and not step.done():
            step.add_done_callback(close)
        else:
            close(step)
