"""Several answers to one request: they run side by side, and their events come as they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from slipway.api.job import Answer, Job, gather
from slipway.core.errors import UsageError
from slipway.core.i18n import tr
from slipway.engine.client import Event, Finish

MAX_CHOICES = 128
"""Answers to one request; OpenAI's limit of `n`."""

Numbered = tuple[int, Event]
Generation = AsyncGenerator[Event, None]

_WAITING = 64  # events that a run may be ahead of a slow reader


def count_choices(n: int | None, prompts: int = 1) -> int:
    """How many answers a request wants in all.

    Raises:
        UsageError: `n` is not positive, or there would be too many answers.
    """
    each = 1 if n is None else n
    if each < 1 or each * prompts > MAX_CHOICES:
        raise UsageError(
            "request.bad_field",
            tr("field `{field}`: {reason}", field="n", reason=f"1 to {MAX_CHOICES} answers in all"),
        )
    return each * prompts


def jobs_for(job: Job, count: int) -> list[Job]:
    """A job for each answer; a given seed counts up, so that the answers differ, and repeat."""
    seed = job.options.get("seed", -1)
    jobs = [job]
    for number in range(1, count):
        options = job.options if seed < 0 else {**job.options, "seed": seed + number}
        jobs.append(replace(job, options=options))
    return jobs


async def numbered(runs: Sequence[Generation]) -> AsyncGenerator[Numbered, None]:
    """The events of several generations, each with the number of its generation.

    The first error ends all of them. Every generation is closed when this one is.
    """
    if len(runs) == 1:
        async with aclosing(runs[0]) as events:
            async for event in events:
                yield 0, event
        return
    pipe: asyncio.Queue[Numbered | BaseException | None] = asyncio.Queue(_WAITING)

    async def pump(number: int, run: Generation) -> None:
        try:
            async with aclosing(run) as events:
                async for event in events:
                    await pipe.put((number, event))
        except Exception as error:
            await pipe.put(error)
        else:
            await pipe.put(None)

    tasks = [asyncio.create_task(pump(i, run)) for i, run in enumerate(runs)]
    left = len(tasks)
    try:
        while left:
            item = await pipe.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def gather_all(runs: Sequence[Generation]) -> list[Answer]:
    """Run generations to their ends, side by side; the first error ends all of them."""
    if len(runs) == 1:
        return [await gather(runs[0])]
    tasks = [asyncio.create_task(gather(run)) for run in runs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task


def sum_of(ends: Sequence[Finish], prompts: int = 1) -> Finish:
    """The counts of several answers as one; the tokens of a prompt count once for all its answers.

    Args:
        ends: of each answer, those to one prompt side by side.
        prompts: how many prompts there were.
    """
    if len(ends) == 1:
        return ends[0]
    each = len(ends) // prompts
    return Finish(
        ends[0].reason,
        sum(end.prompt_tokens for end in ends[::each]),
        sum(end.completion_tokens for end in ends),
        sum(end.cached_tokens for end in ends[::each]),
        sum(end.prompt_s for end in ends),
        sum(end.completion_s for end in ends),
    )
