"""POST /api/chat, and what it shares with /api/generate: answers as NDJSON or one object."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon, require_capability
from slipway.api.errors import ollama_error
from slipway.api.job import Job, ToolCalls, gather
from slipway.api.prompts import (
    from_ollama,
    response_format,
    thinking_options,
    to_ollama,
    with_model_messages,
)
from slipway.api.schemas import ChatBody, GenerateBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import shorten_chat
from slipway.core.errors import SlipwayError
from slipway.engine.client import Event, Finish
from slipway.store.describe import timestamp

NUM_KEEP = 4
"""Tokens at the beginning that stay when a prompt is cut; Ollama's default."""

NDJSON = "application/x-ndjson"

# text, thinking, whole tool calls -> the fields that carry them
Piece = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON answer as Ollama sends it."""
    return Response(orjson.dumps(value), status, media_type="application/json; charset=utf-8")


async def chat(request: Request) -> Response:
    """POST /api/chat."""
    begun = time.monotonic_ns()
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, ChatBody)
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    job = daemon.prepare(model, body.options or {}, body.keep_alive, "generate")
    if body.truncate:
        job.shorten = shorten_chat(job.options["num_predict"])
    if not body.messages:
        return await load_only(request, job, body.model, chat=True)
    require_capability(model, "completion", "chat")
    if body.tools:
        require_capability(model, "tools")
    if any(message.images for message in body.messages):
        require_capability(model, "vision")
    messages = [from_ollama(message) for message in body.messages]
    payload = {"messages": with_model_messages(model, messages), **common(body, job)}
    if body.tools:
        payload["tools"] = body.tools
    if schema := response_format(body.format):
        payload["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    if body.debug_render_only:
        return await rendered_only(request, job, body.model, payload)
    return await answer(request, body, job, job.chat(payload), _chat_piece, begun)


async def rendered_only(request: Request, job: Job, name: str, payload: dict[str, Any]) -> Response:
    """The prompt that the messages become, and no answer (`_debug_render_only`)."""

    async def render() -> str:
        async with job.lease() as lease:
            job.begun(lease)
            return await job.client.render(lease, payload)

    text = await until_gone(request, render())
    parts = [m["content"] for m in payload["messages"] if isinstance(m.get("content"), list)]
    images = sum(part["type"] == "image_url" for content in parts for part in content)
    info = {"rendered_template": text} | ({"image_count": images} if images else {})
    return json_response({**_head(name), "_debug_info": info})


def common(body: ChatBody | GenerateBody, job: Job) -> dict[str, Any]:
    """Fields of the worker's payload that both routes share."""
    if body.think:
        require_capability(job.model, "thinking")
    payload = thinking_options(body.think)
    if body.logprobs:
        payload |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    return payload


async def load_only(request: Request, job: Job, name: str, *, chat: bool) -> Response:
    """An empty request loads the model, or with keep_alive 0 unloads it."""
    begun = time.monotonic_ns()
    if job.keep_alive_s == 0:
        job.daemon.residency.unload(job.spec.gguf)
        reason = "unload"
    else:
        require_capability(job.model, "completion", "chat" if chat else "generate")
        await until_gone(request, job.load())
        reason = "load"
    empty = _chat_piece("", "", []) if chat else generate_piece("", "", [])
    total = time.monotonic_ns() - begun
    line = {**_head(name), **empty, "done": True, "done_reason": reason, "total_duration": total}
    return json_response(line | ({"load_duration": total} if reason == "load" else {}))


async def answer(
    request: Request,
    body: ChatBody | GenerateBody,
    job: Job,
    events: AsyncGenerator[Event, None],
    piece: Piece,
    begun: int,
) -> Response:
    """The answer to a generating request, streamed or whole, as `piece` shapes it."""
    if not body.stream:
        whole = await until_gone(request, gather(events))
        line = {
            **_head(body.model),
            **piece(whole.text, whole.thinking, to_ollama(whole.tool_calls)),
            **_tail(whole.finish, job, begun),
        }
        if whole.logprobs:
            line["logprobs"] = whole.logprobs
        return json_response(line)
    return StreamedResponse(_lines(events, body.model, job, piece, begun), NDJSON)


async def _lines(
    events: AsyncGenerator[Event, None],
    name: str,
    job: Job,
    piece: Piece,
    begun: int,
) -> AsyncGenerator[bytes, None]:
    """The answer's lines; an error before the first is raised, a later one is a line."""
    calls = ToolCalls()
    async with aclosing(events):
        first = await anext(events)
        try:
            yield _line(first, name, job, piece, begun, calls)
            async for event in events:
                yield _line(event, name, job, piece, begun, calls)
        except SlipwayError as error:
            job.daemon.metrics.failed(job.name, error)
            yield orjson.dumps(ollama_error(error)) + b"\n"


def _line(event: Event, name: str, job: Job, piece: Piece, begun: int, calls: ToolCalls) -> bytes:
    if isinstance(event, Finish):
        line = {
            **_head(name),
            **piece("", "", to_ollama(calls.whole)),
            **_tail(event, job, begun),
        }
    else:
        calls.add(event)
        line = {**_head(name), **piece(event.text, event.thinking, []), "done": False}
        if event.logprobs:
            line["logprobs"] = event.logprobs
    return orjson.dumps(line) + b"\n"


def _head(name: str) -> dict[str, Any]:
    return {"model": name, "created_at": timestamp(datetime.now(UTC))}


def _tail(finish: Finish, job: Job, begun: int) -> dict[str, Any]:
    """The last line's fields; durations are nanoseconds."""
    line: dict[str, Any] = {
        "done": True,
        "done_reason": "length" if finish.reason == "length" else "stop",
        "total_duration": time.monotonic_ns() - begun,
        "load_duration": int(job.load_s * 1e9),
        "prompt_eval_count": finish.prompt_tokens,
        "prompt_eval_duration": int(finish.prompt_s * 1e9),
        "prompt_cached_count": finish.cached_tokens,
        "eval_count": finish.completion_tokens,
        "eval_duration": int(finish.completion_s * 1e9),
    }
    if job.context is not None:
        line["context"] = job.context
    if job.cut:
        line["truncated"] = job.cut.as_json()
    return line


def _chat_piece(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def generate_piece(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields of /api/generate that carry a piece of the answer."""
    fields: dict[str, Any] = {"response": text}
    if thinking:
        fields["thinking"] = thinking
    return fields
