"""OpenAI's POST /v1/completions: raw prompts, no template."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from slipway.api.choices import (
    Numbered,
    count_choices,
    gather_all,
    jobs_for,
    numbered,
)
from slipway.api.job import Answer, Job
from slipway.api.ollama import NUM_KEEP, json_response
from slipway.api.openai import SSE, cut_of, generating, reply_to, stream, usage_of
from slipway.api.schemas import CompletionBody, read_body
from slipway.api.streaming import StreamedResponse, until_gone
from slipway.api.truncation import shorten_prompt
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Delta, Event, Finish

Prompt = str | list[int]


async def completions(request: Request) -> Response:
    """POST /v1/completions: one prompt or several, as texts or as token ids."""
    body = await read_body(request, CompletionBody)
    prompts = _prompts(body.prompt)
    count = count_choices(body.n, len(prompts))
    _check(body)
    job = await generating(request, body, "generate")
    if body.truncate:
        job.shorten = shorten_prompt(job.options["num_predict"], NUM_KEEP)
    jobs = jobs_for(job, count)
    each = count // len(prompts)
    echoed = await until_gone(request, _echoed(job, prompts)) if body.echo else [""] * len(prompts)
    heads = [text for text in echoed for _ in range(each)]
    runs = [
        one.complete(_payload(body, prompts[number // each])) for number, one in enumerate(jobs)
    ]
    reply = reply_to(body, "cmpl-", "text_completion")
    if body.stream:
        events = _with_heads(numbered(runs), heads) if body.echo else numbered(runs)
        pieces = stream(reply, jobs, events, _choice_with(body.logprobs), prompts=len(prompts))
        return StreamedResponse(pieces, SSE)
    answers = await until_gone(request, gather_all(runs))
    choices = [
        _whole_choice(number, answer, heads[number], body.logprobs)
        for number, answer in enumerate(answers)
    ]
    usage = usage_of(answers, len(prompts))
    return json_response({**reply.head(), "choices": choices, "usage": usage} | cut_of(jobs))


def _prompts(value: str | list[int] | list[str] | list[list[int]] | None) -> list[Prompt]:
    """Each prompt by itself.

    Raises:
        UsageError: there is none, or one is empty.
    """
    if isinstance(value, str):
        found: list[Any] = [value]
    elif value and isinstance(value[0], int):
        found = [value]
    else:
        found = list(value or [])
    if not found or not all(found):
        raise UsageError("request.no_prompt", tr("prompt is required"))
    return found


def _check(body: CompletionBody) -> None:
    if body.suffix and body.echo:
        raise UsageError("request.unsupported", tr("`{name}` is not supported", name="echo"))
    if body.echo and body.logprobs is not None:
        raise UsageError(
            "request.unsupported",
            tr("the engine gives no log-probabilities of a prompt: `echo` without `logprobs`"),
        )
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UsageError("request.unsupported", tr("`{name}` is not supported", name="best_of"))


def _payload(body: CompletionBody, prompt: Prompt) -> dict[str, Any]:
    payload: dict[str, Any] = {"prompt": prompt}
    if body.suffix:
        if not isinstance(prompt, str):
            raise UsageError(
                "request.bad_field",
                tr("field `{field}`: {reason}", field="prompt", reason="a text, with `suffix`"),
            )
        payload = {"input_prefix": prompt, "input_suffix": body.suffix, "prompt": ""}
    if body.logit_bias:
        payload["logit_bias"] = body.logit_bias
    if body.logprobs is not None:
        payload["n_probs"] = max(1, body.logprobs)
    return payload


async def _echoed(job: Job, prompts: list[Prompt]) -> list[str]:
    """The prompts as texts; the engine knows what token ids stand for."""
    if all(isinstance(prompt, str) for prompt in prompts):
        return [str(prompt) for prompt in prompts]
    async with job.lease() as lease:
        job.begun(lease)
        return [
            prompt if isinstance(prompt, str) else await job.client.detokenize(lease, prompt)
            for prompt in prompts
        ]


async def _with_heads(
    events: AsyncGenerator[Numbered, None], heads: list[str]
) -> AsyncGenerator[Numbered, None]:
    """Each answer begins with its prompt."""
    begun: set[int] = set()
    async with aclosing(events):
        async for number, event in events:
            if number not in begun:
                begun.add(number)
                yield number, Delta(heads[number])
            yield number, event


def _choice_with(top: int | None) -> Callable[[int, Event, bool], dict[str, Any]]:
    position: dict[int, int] = {}

    def choice(number: int, event: Event, first: bool) -> dict[str, Any]:
        if isinstance(event, Finish):
            return {"index": number, "text": "", "logprobs": None, "finish_reason": event.reason}
        at = position.get(number, 0)
        position[number] = at + len(event.text)
        logprobs = legacy_logprobs(event.logprobs, top, at)
        return {"index": number, "text": event.text, "logprobs": logprobs, "finish_reason": None}

    return choice


def _whole_choice(number: int, answer: Answer, head: str, top: int | None) -> dict[str, Any]:
    return {
        "index": number,
        "text": head + answer.text,
        "logprobs": legacy_logprobs(answer.logprobs, top, 0),
        "finish_reason": answer.finish.reason,
    }


def legacy_logprobs(
    tokens: list[dict[str, Any]], top: int | None, offset: int
) -> dict[str, Any] | None:
    """Log-probabilities in the four lists of /v1/completions.

    Args:
        tokens: as the engine gives them: token, logprob, top_logprobs.
        top: how many alternatives were asked for; None is no log-probabilities.
        offset: characters of the answer before the first of these tokens.
    """
    if top is None or not tokens:
        return None
    offsets, alternatives = [], []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
        best = token.get("top_logprobs") or []
        alternatives.append({other["token"]: other["logprob"] for other in best[:top]})
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": alternatives if top else None,
        "text_offset": offsets,
    }
