"""OpenAI's generating routes: /v1/chat/completions and /v1/completions.

The model's own PARAMETERs hold here too; `options` and `keep_alive` may be sent as in Ollama.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon, require_capability
from slipway.api.errors import openai_error
from slipway.api.job import Answer, Job, gather
from slipway.api.ollama import NUM_KEEP, json_response
from slipway.api.prompts import with_model_messages
from slipway.api.schemas import ChatCompletionBody, CompletionBody, OpenAIBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import Cut, shorten_chat, shorten_prompt
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Delta, Event, Finish

SSE = "text/event-stream; charset=utf-8"
_DONE = b"data: [DONE]\n\n"
_FINGERPRINT = "fp_slipway"


@dataclass(frozen=True, slots=True)
class _Reply:
    """What every object of one answer repeats."""

    id: str
    kind: str
    created: int
    model: str
    include_usage: bool

    def head(self, suffix: str = "") -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind + suffix,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": _FINGERPRINT,
        }


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    body = await read_body(request, ChatCompletionBody)
    job = await _job(request, body, "chat")
    if not body.messages:
        raise UsageError("request.no_messages", tr("[] is too short - 'messages'"))
    if body.tools:
        require_capability(job.model, "tools")
    payload: dict[str, Any] = {"messages": _messages(job, body.messages)}
    for name in ("tools", "tool_choice", "response_format", "logit_bias", "logprobs"):
        value = getattr(body, name)
        if value is not None:
            payload[name] = value
    if body.logprobs and body.top_logprobs is not None:
        payload["top_logprobs"] = body.top_logprobs
    reply = _reply(body, "chatcmpl-", "chat.completion")
    if body.stream:
        return StreamedResponse(_stream(reply, job, job.chat(payload), _chat_choice), SSE)
    answer = await until_gone(request, gather(job.chat(payload)))
    return json_response(_chat_object(reply, answer) | _cut(job.cut))


async def completions(request: Request) -> Response:
    """POST /v1/completions: a raw prompt, no template."""
    body = await read_body(request, CompletionBody)
    job = await _job(request, body, "generate")
    if isinstance(body.prompt, list) and body.prompt and isinstance(body.prompt[0], str):
        if len(body.prompt) > 1:
            raise UsageError("request.unsupported", tr("`{name}` is not supported", name="prompts"))
        prompt: Any = body.prompt[0]
    else:
        prompt = body.prompt
    for name, value in (("suffix", body.suffix), ("echo", body.echo)):
        if value:
            raise UsageError("request.unsupported", tr("`{name}` is not supported", name=name))
    if not prompt:
        raise UsageError("request.no_prompt", tr("prompt is required"))
    payload: dict[str, Any] = {"prompt": prompt}
    if body.logit_bias:
        payload["logit_bias"] = body.logit_bias
    reply = _reply(body, "cmpl-", "text_completion")
    if body.stream:
        return StreamedResponse(_stream(reply, job, job.complete(payload), _text_choice), SSE)
    answer = await until_gone(request, gather(job.complete(payload)))
    choice = {
        "index": 0,
        "text": answer.text,
        "logprobs": None,
        "finish_reason": answer.finish.reason,
    }
    whole = {**reply.head(), "choices": [choice], "usage": usage(answer.finish)}
    return json_response(whole | _cut(job.cut))


def _cut(cut: Cut | None) -> dict[str, Any]:
    return {"truncated": cut.as_json()} if cut else {}


async def _job(request: Request, body: OpenAIBody, verb: str) -> Job:
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    if body.n not in (None, 1):
        raise UsageError("request.unsupported", tr("`n` must be 1"))
    require_capability(model, "completion", verb)
    job = daemon.prepare(model, body.named_options(), body.keep_alive, "generate")
    if body.truncate:
        limit = job.options["num_predict"]
        job.shorten = shorten_chat(limit) if verb == "chat" else shorten_prompt(limit, NUM_KEEP)
    return job


def _messages(job: Job, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise UsageError(
                "request.bad_field",
                tr("field `{field}`: {reason}", field=f"messages.{index}.role", reason="required"),
            )
        _refuse_media(message.get("content"))
    turned = [{**m, "role": "system" if m["role"] == "developer" else m["role"]} for m in messages]
    return with_model_messages(job.model, turned)


def _refuse_media(content: object) -> None:
    """The engine would call a picture its own failure, and clients try failures again."""
    for part in content if isinstance(content, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("image_url", "input_audio", "file"):
            raise UsageError("request.unsupported", tr("`{name}` is not supported", name=kind))


def _reply(body: OpenAIBody, prefix: str, kind: str) -> _Reply:
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    return _Reply(prefix + secrets.token_hex(12), kind, int(time.time()), body.model, wants_usage)


def usage(finish: Finish) -> dict[str, Any]:
    """`usage`: the engine's own counts."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    }


def _chat_object(reply: _Reply, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thinking:
        message["reasoning"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    choice: dict[str, Any] = {
        "index": 0,
        "message": message,
        "finish_reason": answer.finish.reason,
        "logprobs": {"content": answer.logprobs} if answer.logprobs else None,
    }
    return {**reply.head(), "choices": [choice], "usage": usage(answer.finish)}


def _chat_choice(event: Event, first: bool) -> dict[str, Any]:
    if isinstance(event, Finish):
        return {"index": 0, "delta": {}, "logprobs": None, "finish_reason": event.reason}
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if event.text or first:
        delta["content"] = event.text
    if event.thinking:
        delta["reasoning"] = event.thinking
    if event.tool_calls:
        delta["tool_calls"] = event.tool_calls
    logprobs = {"content": event.logprobs} if event.logprobs else None
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _text_choice(event: Event, first: bool) -> dict[str, Any]:
    if isinstance(event, Finish):
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": event.reason}
    return {"index": 0, "text": event.text, "logprobs": None, "finish_reason": None}


async def _stream(
    reply: _Reply, job: Job, events: AsyncGenerator[Event, None], choice: Any
) -> AsyncGenerator[bytes, None]:
    """Chunks; an error before the first is raised, a later one is told in the stream."""
    suffix = ".chunk" if reply.kind == "chat.completion" else ""

    def chunk(event: Event, at_start: bool) -> bytes:
        line = {**reply.head(suffix), "choices": [choice(event, at_start)]}
        if isinstance(event, Finish):
            line |= _cut(job.cut)
        text = _sse(line | ({"usage": None} if reply.include_usage else {}))
        if isinstance(event, Finish):
            if reply.include_usage:
                text += _sse({**reply.head(suffix), "choices": [], "usage": usage(event)})
            text += _DONE
        return text

    async with aclosing(events):
        first = await anext(events)
        try:
            if isinstance(first, Finish):  # an empty answer still opens with its role
                yield chunk(Delta(), True)
            yield chunk(first, True)
            async for event in events:
                yield chunk(event, False)
        except SlipwayError as error:
            job.daemon.metrics.failed(job.name, error)
            yield _sse(openai_error(error))


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
