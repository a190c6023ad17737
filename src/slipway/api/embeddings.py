"""Embeddings at both doors: /api/embed, /api/embeddings, /v1/embeddings."""

from __future__ import annotations

import array
import base64
import math
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.job import Job
from slipway.api.ollama import json_response
from slipway.api.schemas import EmbedBody, EmbeddingBody, KeepAlive, LegacyEmbedBody, read_body
from slipway.api.streaming import until_gone
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.store.describe import capabilities_of

MAX_INPUTS = 2048

Inputs = list[str] | list[list[int]]


async def embed(request: Request) -> Response:
    """POST /api/embed. An input that is too long is refused, unless `truncate` is true."""
    begun = time.monotonic_ns()
    body = await read_body(request, EmbedBody)
    job = await _job(request, body.model, body.options, body.keep_alive)
    if body.input is None:
        raise UsageError("request.no_input", tr("input is required"))
    inputs: Inputs = [body.input] if isinstance(body.input, str) else body.input
    vectors, tokens = await until_gone(
        request, _embed(job, inputs, truncate=bool(body.truncate), dimensions=body.dimensions)
    )
    return json_response(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": time.monotonic_ns() - begun,
            "load_duration": int(job.load_s * 1e9),
            "prompt_eval_count": tokens,
        }
    )


async def legacy_embeddings(request: Request) -> Response:
    """POST /api/embeddings: one prompt, one vector."""
    body = await read_body(request, LegacyEmbedBody)
    job = await _job(request, body.model, body.options, body.keep_alive)
    vectors: list[list[float]] = [[]]
    if body.prompt:
        vectors, _ = await until_gone(request, _embed(job, [body.prompt]))
    else:
        await until_gone(request, job.load())
    return json_response({"embedding": vectors[0]})


async def openai_embeddings(request: Request) -> Response:
    """POST /v1/embeddings: text or token ids; numbers or base64 of little-endian float32."""
    body = await read_body(request, EmbeddingBody)
    job = await _job(request, body.model, body.options, body.keep_alive)
    inputs = _openai_inputs(body.input)
    if not inputs:
        raise UsageError("request.no_input", tr("input is required"))
    work = _embed(job, inputs, truncate=body.truncate, dimensions=body.dimensions)
    vectors, tokens = await until_gone(request, work)
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _base64(v) if packed else v}
        for i, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": body.model, "usage": usage})


def _openai_inputs(value: str | list[str] | list[int] | list[list[int]] | None) -> Inputs:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [value]
    return value  # type: ignore[return-value]


async def _job(
    request: Request, name: str, options: dict[str, Any] | None, keep_alive: KeepAlive
) -> Job:
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(name)
    request.state.model = model.display
    if "rerank" in capabilities_of(model):
        raise UsageError(
            "model.capability",
            tr('"{name}" does not support {verb}', name=model.name, verb="embeddings"),
            tr("it scores documents: `POST /v1/rerank`"),
        )
    return daemon.prepare(model, options or {}, keep_alive, "embed")


async def _embed(
    job: Job, inputs: Inputs, *, truncate: bool = False, dimensions: int | None = None
) -> tuple[list[list[float]], int]:
    """Vectors of unit length, and the tokens read.

    Raises:
        UsageError: an input is empty or too long, there are too many, or more dimensions are
            wanted than the model has.
    """
    if not inputs:
        await job.load()
        return [], 0
    if len(inputs) > MAX_INPUTS:
        raise UsageError(
            "request.too_many",
            tr("{count} inputs; at most {limit} at once", count=len(inputs), limit=MAX_INPUTS),
        )
    client = job.client
    async with job.lease() as lease:
        job.begun(lease)
        if truncate:
            limit = lease.spec.num_ctx
            tokens = [
                await client.tokenize(lease, text) if isinstance(text, str) else text
                for text in inputs
            ]
            # The last token stays: it is the mark that ends a sequence.
            inputs = [t if len(t) <= limit else [*t[: limit - 1], t[-1]] for t in tokens]
        vectors, count = await client.embed(lease, inputs)
    job.daemon.metrics.tokens.labels(job.name, "prompt").inc(count)
    if dimensions is not None:
        if dimensions > len(vectors[0]):
            raise UsageError(
                "request.dimensions",
                tr(
                    "the model has {have} dimensions, not {want}",
                    have=len(vectors[0]),
                    want=dimensions,
                ),
            )
        vectors = [_unit(vector[:dimensions]) for vector in vectors]
    return vectors, count


def _unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector]


def _base64(vector: list[float]) -> str:
    packed = array.array("f", vector)
    if array.array("H", [1]).tobytes() != b"\x01\x00":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
