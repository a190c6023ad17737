"""HEAD and POST /api/blobs/:digest: files that a later /api/create names by their digest."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.streaming import ClientGoneError
from slipway.store.manifests import ManifestStore

MAX_BLOB_BYTES = 2 << 40
_PIECE = 4 << 20


async def blob(request: Request) -> Response:
    """HEAD: 200 when it is there, else 404. POST: 201 when it is new, 200 when it was there."""
    daemon: Daemon = request.app.state.daemon
    digest = request.path_params["digest"].replace("-", ":", 1)
    store = ManifestStore(daemon.home.models).blobs
    there = await asyncio.to_thread(store.path(digest).is_file)
    if request.method != "POST":
        return Response(status_code=200 if there else 404)
    if there:
        return Response(status_code=200)
    with store.receiver(digest, MAX_BLOB_BYTES) as receiver:
        held = bytearray()
        try:
            async for piece in request.stream():
                held += piece
                if len(held) >= _PIECE:
                    await asyncio.to_thread(receiver.write, bytes(held))
                    held.clear()
        except Exception as error:  # Starlette tells of a client that left in its own way
            if type(error).__name__ == "ClientDisconnect":
                raise ClientGoneError from error
            raise
        await asyncio.to_thread(receiver.write, bytes(held))
        await asyncio.to_thread(receiver.finish)
    return Response(status_code=201)
