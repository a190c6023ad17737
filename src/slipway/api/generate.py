"""POST /api/generate: one prompt, by the model's template, raw, or to fill a gap."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.daemon import Daemon, require_capability
from slipway.api.job import Job
from slipway.api.ollama import NUM_KEEP, answer, common, generate_piece, load_only, rendered_only
from slipway.api.prompts import response_format, with_images, with_model_messages
from slipway.api.schemas import GenerateBody, read_body
from slipway.api.truncation import shorten_prompt
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Event
from slipway.store.gotemplate import TemplateError, parse


async def generate(request: Request) -> Response:
    """POST /api/generate."""
    begun = time.monotonic_ns()
    daemon: Daemon = request.app.state.daemon
    body = await read_body(request, GenerateBody)
    model = await daemon.resolve(body.model)
    request.state.model = model.display
    job = daemon.prepare(model, body.options or {}, body.keep_alive, "generate")
    if body.truncate:
        keep = job.options.get("num_keep", NUM_KEEP)
        job.shorten = shorten_prompt(job.options["num_predict"], keep)
    _check(body)
    if body.template:
        job.template = _checked(body.template)
    if not body.prompt and not body.suffix:
        return await load_only(request, job, body.model, chat=False)
    require_capability(model, "completion", "generate")
    if body.images:
        require_capability(model, "vision")
    if body.raw or body.suffix:
        return await answer(request, body, job, _raw(body, job), generate_piece, begun)
    payload = _chat(body, job)
    if body.debug_render_only:
        return await rendered_only(request, job, body.model, payload)
    job.returns_context = True
    if body.context:
        events = _continued(body, job, payload)
        return await answer(request, body, job, events, generate_piece, begun)
    return await answer(request, body, job, job.chat(payload), generate_piece, begun)


def _check(body: GenerateBody) -> None:
    if body.raw and (body.template or body.system or body.context):
        raise UsageError(
            "request.raw", tr("raw mode does not support template, system, or context")
        )
    if body.template and "{%" in body.template:
        raise UsageError(
            "request.bad_template",
            tr("`template` is read as a Go template, and this one is Jinja"),
            tr("create a model with that TEMPLATE, or render the prompt and send it `raw`"),
        )
    if body.suffix and body.images:
        raise UsageError("request.unsupported", tr("`{name}` is not supported", name="images"))


def _checked(template: str) -> str:
    """The template, when it can be read.

    Raises:
        UsageError: it cannot; line and reason are named.
    """
    try:
        parse(template)
    except TemplateError as error:
        reason = tr("line {line}: {reason}", line=error.line, reason=error.reason)
        raise UsageError(
            "request.bad_template",
            tr("field `{field}`: {reason}", field="template", reason=reason),
        ) from error
    return template


def _chat(body: GenerateBody, job: Job) -> dict[str, Any]:
    content: Any = with_images(body.prompt, body.images) if body.images else body.prompt
    turn = [{"role": "user", "content": content}]
    # A continued conversation has had its system text already.
    system = "" if body.context and body.system is None else body.system
    payload = {"messages": with_model_messages(job.model, turn, system), **common(body, job)}
    if schema := response_format(body.format):
        payload["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return payload


def _raw(body: GenerateBody, job: Job) -> AsyncGenerator[Event, None]:
    if body.suffix:
        payload = {"input_prefix": body.prompt, "input_suffix": body.suffix, "prompt": ""}
        return job.complete(payload)
    return job.complete({"prompt": body.prompt, **_extras(body)})


def _extras(body: GenerateBody) -> dict[str, Any]:
    """Fields that /completion names otherwise than /v1/chat/completions."""
    extras: dict[str, Any] = {}
    if schema := response_format(body.format):
        extras["json_schema"] = schema
    if body.logprobs:
        extras["n_probs"] = max(1, body.top_logprobs)
    return extras


def _continued(
    body: GenerateBody, job: Job, payload: dict[str, Any]
) -> AsyncGenerator[Event, None]:
    """The new turn after the tokens of the turns before, as `context` brings them."""
    assert body.context is not None
    job.before = (body.context, payload)
    return job.complete(_extras(body))
