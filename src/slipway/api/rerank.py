"""POST /v1/rerank: which documents answer a query best.

A reranker (a GGUF with rank pooling, such as bge-reranker) reads query and document together. With
a model that only embeds, the score is the cosine of their embeddings, so that a search works before
a reranker is there; the field `method` says which of the two it was.
"""

from __future__ import annotations

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon
from slipway.api.embeddings import MAX_INPUTS
from slipway.api.job import Job
from slipway.api.ollama import json_response
from slipway.api.schemas import RerankBody, read_body
from slipway.api.streaming import until_gone
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.store.describe import capabilities_of

Method = Literal["rank", "cosine"]


async def rerank(request: Request) -> Response:
    """POST /v1/rerank: the documents by falling score, each with its place in the request."""
    body = await read_body(request, RerankBody)
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    texts = _texts(body)
    method: Method = "rank" if "rerank" in capabilities_of(model) else "cosine"
    job = daemon.prepare(model, body.options or {}, body.keep_alive, "embed")
    scores, tokens = await until_gone(request, _scores(job, method, body.query, texts))
    order = sorted(range(len(texts)), key=lambda index: (-scores[index], index))
    results: list[dict[str, Any]] = []
    for index in order[: body.top_n]:
        row: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if body.return_documents:
            row["document"] = {"text": texts[index]}
        results.append(row)
    return json_response(
        {
            "object": "list",
            "model": body.model,
            "method": method,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _texts(body: RerankBody) -> list[str]:
    """The documents' texts.

    Raises:
        UsageError: query or documents are missing, empty or too many; the message names the place.
    """
    if not body.query:
        raise UsageError("request.no_query", tr("query is required"))
    if not body.documents:
        raise UsageError("request.no_documents", tr("documents are required"))
    if len(body.documents) > MAX_INPUTS:
        raise UsageError(
            "request.too_many",
            tr(
                "{count} inputs; at most {limit} at once",
                count=len(body.documents),
                limit=MAX_INPUTS,
            ),
        )
    texts = []
    for index, document in enumerate(body.documents):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str) or not text:
            raise UsageError(
                "request.bad_field",
                tr(
                    "field `{field}`: {reason}",
                    field=f"documents.{index}",
                    reason="must be a text that is not empty",
                ),
            )
        texts.append(text)
    return texts


async def _scores(
    job: Job, method: Method, query: str, texts: list[str]
) -> tuple[list[float], int]:
    """A score for each text, and the tokens read."""
    async with job.lease() as lease:
        job.begun(lease)
        if method == "rank":
            scores, tokens = await job.client.rerank(lease, query, texts)
        else:
            (first, *others), tokens = await job.client.embed(lease, [query, *texts])
            # embeddings have unit length, so the product is the cosine
            scores = [sum(a * b for a, b in zip(first, x, strict=True)) for x in others]
    job.daemon.metrics.tokens.labels(job.name, "prompt").inc(tokens)
    return scores, tokens
