"""Anthropic's face: POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api.anthropic_shapes import (
    CountBody,
    MessagesBody,
    has_images,
    to_messages,
    to_tool_choice,
    to_tools,
)
from slipway.api.daemon import Daemon, require_capability
from slipway.api.errors import anthropic_error
from slipway.api.job import Answer, Job, gather
from slipway.api.ollama import json_response
from slipway.api.prompts import with_model_messages
from slipway.api.schemas import read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import shorten_chat
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Delta, Event, Finish
from slipway.store.describe import capabilities_of

SSE = "text/event-stream; charset=utf-8"

_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


async def messages(request: Request) -> Response:
    """POST /v1/messages."""
    body = await read_body(request, MessagesBody)
    job = await _job(request, body, body.named_options())
    if body.truncate:
        job.shorten = shorten_chat(body.max_tokens)
    payload = _payload(body, job)
    events = job.chat(payload)
    name = "msg_" + secrets.token_hex(12)
    if body.stream:
        return StreamedResponse(_Stream(name, body.model, job).run(events), SSE)
    answer = await until_gone(request, gather(events))
    whole = {
        **_head(name, body.model),
        "content": _blocks(answer),
        "stop_reason": _REASONS.get(answer.finish.reason, "end_turn"),
        "stop_sequence": None,
        "usage": _usage(answer.finish),
    }
    return json_response(whole | ({"truncated": job.cut.as_json()} if job.cut else {}))


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: of the prompt as it would be rendered."""
    body = await read_body(request, CountBody)
    job = await _job(request, body, body.options or {})
    payload = _payload(body, job)

    async def count() -> int:
        async with job.lease() as lease:
            job.begun(lease)
            return await job.client.count_chat(lease, payload)

    return json_response({"input_tokens": await until_gone(request, count())})


async def _job(request: Request, body: CountBody, options: dict[str, Any]) -> Job:
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    if not body.messages:
        raise UsageError("request.no_messages", tr("messages: at least one message is required"))
    require_capability(model, "completion", "chat")
    return daemon.prepare(model, options, body.keep_alive, "generate")


def _payload(body: CountBody, job: Job) -> dict[str, Any]:
    conversation = to_messages(body)
    if has_images(conversation):
        require_capability(job.model, "vision")
    payload: dict[str, Any] = {"messages": with_model_messages(job.model, conversation)}
    if body.tools:
        require_capability(job.model, "tools")
        payload["tools"] = to_tools(body.tools)
        choice = to_tool_choice(body.tool_choice)
        if choice is not None:
            payload["tool_choice"] = choice
        if (body.tool_choice or {}).get("disable_parallel_tool_use"):
            payload["parallel_tool_calls"] = False
    thinks = (body.thinking or {}).get("type")
    if thinks in ("enabled", "adaptive"):
        require_capability(job.model, "thinking")
        payload["chat_template_kwargs"] = {"enable_thinking": True}
    elif "thinking" in capabilities_of(job.model):
        payload["chat_template_kwargs"] = {"enable_thinking": False}
    return payload


def _head(name: str, model: str) -> dict[str, Any]:
    return {"id": name, "type": "message", "role": "assistant", "model": model}


def _usage(finish: Finish) -> dict[str, int]:
    """Tokens; those from the cache apart, as Anthropic counts them."""
    return {
        "input_tokens": finish.prompt_tokens - finish.cached_tokens,
        "cache_read_input_tokens": finish.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": finish.completion_tokens,
    }


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.thinking:
        blocks.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
    if answer.text or not answer.tool_calls:
        blocks.append({"type": "text", "text": answer.text})
    for call in answer.tool_calls:
        function = call["function"]
        try:
            given = orjson.loads(function["arguments"] or "{}")
        except orjson.JSONDecodeError:
            given = {"_raw": function["arguments"]}  # cut by max_tokens
        identity = _tool_id(call.get("id"))
        blocks.append(
            {"type": "tool_use", "id": identity, "name": function["name"], "input": given}
        )
    return blocks


def _tool_id(given: Any) -> str:
    return str(given) if given else "toolu_" + secrets.token_hex(12)


@dataclass
class _Stream:
    """The events of a streamed answer; one block is open at a time."""

    name: str
    model: str
    job: Job
    index: int = -1
    kind: str = ""
    calls: dict[int, int] = field(default_factory=dict)

    async def run(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
        """An error before the first event is raised, a later one is told in the stream."""
        async with aclosing(events):
            first = await anext(events)
            try:
                yield self._start()
                for piece in self._pieces(first):
                    yield piece
                async for event in events:
                    for piece in self._pieces(event):
                        yield piece
            except SlipwayError as error:
                self.job.daemon.metrics.failed(self.job.name, error)
                yield _event("error", anthropic_error(error, self.job.info.id))

    def _start(self) -> bytes:
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {
            **_head(self.name, self.model),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return _event("message_start", {"message": message}) + _event("ping", {})

    def _pieces(self, event: Event) -> list[bytes]:
        return self._end(event) if isinstance(event, Finish) else self._delta(event)

    def _delta(self, delta: Delta) -> list[bytes]:
        found: list[bytes] = []
        if delta.thinking:
            found += self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            found.append(self._piece({"type": "thinking_delta", "thinking": delta.thinking}))
        if delta.text:
            found += self._open("text", {"type": "text", "text": ""})
            found.append(self._piece({"type": "text_delta", "text": delta.text}))
        for call in delta.tool_calls:
            number = call.get("index", 0)
            function = call.get("function") or {}
            if number not in self.calls:
                block: dict[str, Any] = {
                    "type": "tool_use",
                    "id": _tool_id(call.get("id")),
                    "name": function.get("name") or "",
                    "input": {},
                }
                found += self._open(f"tool {number}", block)
                self.calls[number] = self.index
            if arguments := function.get("arguments"):
                found.append(self._piece({"type": "input_json_delta", "partial_json": arguments}))
        return found

    def _open(self, kind: str, block: dict[str, Any]) -> list[bytes]:
        """Begin a block, when the open one is of another kind."""
        if self.kind == kind:
            return []
        found = self._close()
        self.index, self.kind = self.index + 1, kind
        start = {"index": self.index, "content_block": block}
        return [*found, _event("content_block_start", start)]

    def _close(self) -> list[bytes]:
        if not self.kind:
            return []
        self.kind = ""
        return [_event("content_block_stop", {"index": self.index})]

    def _piece(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self.index, "delta": delta})

    def _end(self, finish: Finish) -> list[bytes]:
        found: list[bytes] = []
        if self.index < 0:  # an empty answer still has its block
            found += self._open("text", {"type": "text", "text": ""})
        found += self._close()
        reason = _REASONS.get(finish.reason, "end_turn")
        end: dict[str, Any] = {
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": _usage(finish),
        }
        if self.job.cut:
            end["truncated"] = self.job.cut.as_json()
        return [*found, _event("message_delta", end), _event("message_stop", {})]


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return (
        b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **value}) + b"\n\n"
    )
