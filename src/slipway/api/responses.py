"""OpenAI's POST /v1/responses, stateless: one request, one response with its output items."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import require_capability
from slipway.api.errors import openai_error
from slipway.api.job import Job
from slipway.api.ollama import json_response
from slipway.api.openai import SSE, generating, thinking
from slipway.api.prompts import with_model_messages
from slipway.api.responses_items import Assembly
from slipway.api.responses_shapes import (
    ResponsesBody,
    check_stateless,
    to_format,
    to_messages,
    to_tool_choice,
    to_tools,
)
from slipway.api.schemas import read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import shorten_chat
from slipway.core.errors import SlipwayError
from slipway.engine.client import Event, Finish


async def responses(request: Request) -> Response:
    """POST /v1/responses."""
    body = await read_body(request, ResponsesBody)
    check_stateless(body)
    job = await generating(request, body, "chat")
    if body.truncation == "auto" or body.truncate:
        job.shorten = shorten_chat(job.options["num_predict"])
    payload = _payload(job, body)
    events = job.chat(payload)
    frame = _frame(body, job)
    if body.stream:
        return StreamedResponse(_stream(frame, job, events), SSE)
    return json_response(await until_gone(request, _whole(frame, job, events)))


def _payload(job: Job, body: ResponsesBody) -> dict[str, Any]:
    messages, pictures = to_messages(body)
    if pictures:
        require_capability(job.model, "vision")
    payload: dict[str, Any] = {"messages": with_model_messages(job.model, messages)}
    payload |= thinking(job, (body.reasoning or {}).get("effort"))
    if body.tools:
        require_capability(job.model, "tools")
        payload["tools"] = to_tools(body.tools)
        if body.parallel_tool_calls is not None:
            payload["parallel_tool_calls"] = body.parallel_tool_calls
        if (choice := to_tool_choice(body.tool_choice)) is not None:
            payload["tool_choice"] = choice
    if (wanted := to_format(body.text)) is not None:
        payload["response_format"] = wanted
    if body.wants_logprobs:
        payload |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.logit_bias:
        payload["logit_bias"] = body.logit_bias
    return payload


def _frame(body: ResponsesBody, job: Job) -> dict[str, Any]:
    """The response without what the answer decides."""
    options = job.options
    return {
        "id": "resp_" + secrets.token_hex(16),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
        "store": False,
        "temperature": options["temperature"],
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": options["top_p"],
        "truncation": body.truncation,
        "usage": None,
        "user": body.user,
    }


def _ended(frame: dict[str, Any], job: Job, assembly: Assembly, end: Finish) -> dict[str, Any]:
    cut = end.reason == "length"
    whole = {
        **frame,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": assembly.items,
        "usage": {
            "input_tokens": end.prompt_tokens,
            "input_tokens_details": {"cached_tokens": end.cached_tokens},
            "output_tokens": end.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": assembly.thoughts},
            "total_tokens": end.prompt_tokens + end.completion_tokens,
        },
    }
    return whole | ({"truncated": job.cut.as_json()} if job.cut else {})


async def _whole(
    frame: dict[str, Any], job: Job, events: AsyncGenerator[Event, None]
) -> dict[str, Any]:
    assembly = Assembly()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                assembly.end(cut=event.reason == "length")
                return _ended(frame, job, assembly, event)
            assembly.add(event)
    raise AssertionError("a generation ends with Finish or an error")


async def _stream(
    frame: dict[str, Any], job: Job, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[bytes, None]:
    """Events; an error before the first is raised, a later one is told in the stream."""
    assembly, count = Assembly(), 0

    def line(kind: str, fields: dict[str, Any]) -> bytes:
        nonlocal count
        value = orjson.dumps({"type": kind, "sequence_number": count, **fields})
        count += 1
        return b"event: " + kind.encode() + b"\ndata: " + value + b"\n\n"

    async with aclosing(events):
        event = await anext(events)
        yield line("response.created", {"response": frame})
        yield line("response.in_progress", {"response": frame})
        try:
            while not isinstance(event, Finish):
                for kind, fields in assembly.add(event):
                    yield line(kind, fields)
                event = await anext(events)
        except SlipwayError as error:
            job.daemon.metrics.failed(job.name, error)
            problem = openai_error(error)["error"]
            told = {"code": "server_error", "message": problem["message"]}
            failed = {**frame, "status": "failed", "error": told, "output": assembly.items}
            yield line("response.failed", {"response": failed})
            return
        for kind, fields in assembly.end(cut=event.reason == "length"):
            yield line(kind, fields)
        whole = _ended(frame, job, assembly, event)
        yield line(f"response.{whole['status']}", {"response": whole})
