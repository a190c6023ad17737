"""OpenAI's POST /v1/chat/completions, and what its other generating routes share with it.

The model's own PARAMETERs hold here too; `options` and `keep_alive` may be sent as in Ollama.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from slipway.api.choices import Numbered, count_choices, gather_all, jobs_for, numbered, sum_of
from slipway.api.daemon import Daemon, require_capability
from slipway.api.errors import openai_error
from slipway.api.job import Answer, Job
from slipway.api.ollama import json_response
from slipway.api.prompts import check_media, thinking_options, with_model_messages
from slipway.api.schemas import ChatCompletionBody, OpenAIBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import Cut, shorten_chat
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Delta, Event, Finish

SSE = "text/event-stream; charset=utf-8"
_DONE = b"data: [DONE]\n\n"
_FINGERPRINT = "fp_slipway"

_EFFORTS = {"minimal": "low", "xhigh": "max", "ultra": "max"}
"""Names of `reasoning_effort` that chat templates know by another one."""

Shape = Callable[[int, Event, bool], dict[str, Any]]
"""A chunk's choice from its number, an event, and whether it is the choice's first."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What every object of one answer repeats."""

    id: str
    kind: str
    created: int
    model: str
    include_usage: bool

    def head(self, suffix: str = "") -> dict[str, Any]:
        """The fields before `choices`."""
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
    count = count_choices(body.n)
    job = await generating(request, body, "chat")
    if body.truncate:
        job.shorten = shorten_chat(job.options["num_predict"])
    payload = _payload(job, body)
    reply = reply_to(body, "chatcmpl-", "chat.completion")
    jobs = jobs_for(job, count)
    runs = [one.chat(payload) for one in jobs]
    if body.stream:
        return StreamedResponse(stream(reply, jobs, numbered(runs), _chat_choice), SSE)
    answers = await until_gone(request, gather_all(runs))
    choices = [_whole_choice(number, answer) for number, answer in enumerate(answers)]
    whole = {**reply.head(), "choices": choices, "usage": usage_of(answers)}
    return json_response(whole | cut_of(jobs))


def _payload(job: Job, body: ChatCompletionBody) -> dict[str, Any]:
    if not body.messages:
        raise UsageError("request.no_messages", tr("[] is too short - 'messages'"))
    if body.tools:
        require_capability(job.model, "tools")
    payload: dict[str, Any] = {"messages": _messages(job, body.messages)}
    payload |= thinking(job, body.reasoning_effort or (body.reasoning or {}).get("effort"))
    names = ("tools", "tool_choice", "response_format", "logit_bias", "logprobs")
    for name in (*names, "parallel_tool_calls"):
        value = getattr(body, name)
        if value is not None:
            payload[name] = value
    if body.logprobs and body.top_logprobs is not None:
        payload["top_logprobs"] = body.top_logprobs
    return payload


async def generating(request: Request, body: OpenAIBody, verb: str) -> Job:
    """The job of a request that generates.

    Raises:
        NotFoundError: no such model.
        UsageError: the model does not generate, or an option has a bad value.
    """
    daemon: Daemon = request.app.state.daemon
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    require_capability(model, "completion", verb)
    return daemon.prepare(model, body.named_options(), body.keep_alive, "generate")


def thinking(job: Job, effort: object) -> dict[str, Any]:
    """`reasoning_effort` as arguments of the chat template; `none` is no thinking at all.

    Raises:
        UsageError: the model does not think.
    """
    if effort is None:
        return {}
    if not isinstance(effort, str):
        raise UsageError(
            "request.bad_field",
            tr("field `{field}`: {reason}", field="reasoning.effort", reason="must be a string"),
        )
    if effort == "none":
        return thinking_options(False)
    require_capability(job.model, "thinking")
    return thinking_options(_EFFORTS.get(effort, effort))


def _messages(job: Job, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise UsageError(
                "request.bad_field",
                tr("field `{field}`: {reason}", field=f"messages.{index}.role", reason="required"),
            )
        if check_media(message.get("content"), f"messages.{index}.content"):
            require_capability(job.model, "vision")
    turned = [{**m, "role": "system" if m["role"] == "developer" else m["role"]} for m in messages]
    return with_model_messages(job.model, turned)


def reply_to(body: OpenAIBody, prefix: str, kind: str) -> Reply:
    """The frame of the answer to a request."""
    wants_usage = body.stream_options is not None and body.stream_options.include_usage
    return Reply(prefix + secrets.token_hex(12), kind, int(time.time()), body.model, wants_usage)


def cut_of(jobs: list[Job]) -> dict[str, Any]:
    """The field that says what was left out of a prompt."""
    cuts: list[Cut] = [job.cut for job in jobs if job.cut]
    return {"truncated": cuts[0].as_json()} if cuts else {}


def usage(finish: Finish) -> dict[str, Any]:
    """`usage`: the engine's own counts."""
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    }


def usage_of(answers: list[Answer], prompts: int = 1) -> dict[str, Any]:
    """`usage` of several answers."""
    return usage(sum_of([answer.finish for answer in answers], prompts))


def _whole_choice(number: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.thinking:
        message["reasoning"] = answer.thinking
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    return {
        "index": number,
        "message": message,
        "finish_reason": answer.finish.reason,
        "logprobs": {"content": answer.logprobs} if answer.logprobs else None,
    }


def _chat_choice(number: int, event: Event, first: bool) -> dict[str, Any]:
    if isinstance(event, Finish):
        return {"index": number, "delta": {}, "logprobs": None, "finish_reason": event.reason}
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if event.text or first:
        delta["content"] = event.text
    if event.thinking:
        delta["reasoning"] = event.thinking
    if event.tool_calls:
        delta["tool_calls"] = event.tool_calls
    logprobs = {"content": event.logprobs} if event.logprobs else None
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}


async def stream(
    reply: Reply,
    jobs: list[Job],
    events: AsyncGenerator[Numbered, None],
    shape: Shape,
    *,
    prompts: int = 1,
) -> AsyncGenerator[bytes, None]:
    """Chunks; an error before the first is raised, a later one is told in the stream."""
    chunks = _Chunks(reply, jobs, shape, prompts)
    async with aclosing(events):
        first = await anext(events)
        try:
            for line in chunks.of(*first):
                yield line
            async for item in events:
                for line in chunks.of(*item):
                    yield line
            yield chunks.end()
        except SlipwayError as error:
            jobs[0].daemon.metrics.failed(jobs[0].name, error)
            yield sse(openai_error(error))


class _Chunks:
    """The lines of one stream, and what must be known of it for the next."""

    def __init__(self, reply: Reply, jobs: list[Job], shape: Shape, prompts: int) -> None:
        self._reply, self._jobs, self._shape, self._prompts = reply, jobs, shape, prompts
        self._suffix = ".chunk" if reply.kind == "chat.completion" else ""
        self._begun: set[int] = set()
        self._ends: dict[int, Finish] = {}

    def of(self, number: int, event: Event) -> list[bytes]:
        first = number not in self._begun
        self._begun.add(number)
        lines = []
        if isinstance(event, Finish):
            self._ends[number] = event
            if first:  # an empty answer still opens with its role
                lines.append(self._line(number, Delta(), first=True))
            first = False
        return [*lines, self._line(number, event, first=first)]

    def _line(self, number: int, event: Event, *, first: bool) -> bytes:
        line = {**self._reply.head(self._suffix), "choices": [self._shape(number, event, first)]}
        if isinstance(event, Finish):
            line |= cut_of([self._jobs[number]])
        return sse(line | ({"usage": None} if self._reply.include_usage else {}))

    def end(self) -> bytes:
        if not self._reply.include_usage:
            return _DONE
        whole = sum_of([self._ends[i] for i in sorted(self._ends)], self._prompts)
        head = self._reply.head(self._suffix)
        return sse({**head, "choices": [], "usage": usage(whole)}) + _DONE


def sse(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"
