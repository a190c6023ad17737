"""One request on its way through a worker, and its answer put together."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipway.api.context import RequestInfo, current
from slipway.api.options import sampling
from slipway.api.templated import TemplatedClient
from slipway.api.truncation import Cut, Shorten
from slipway.core.errors import UsageError
from slipway.engine.client import Delta, EngineClient, Event, Finish
from slipway.engine.spec import LoadSpec
from slipway.engine.table import Lease, WorkerLostError
from slipway.engine.table import Request as Ask
from slipway.store import ModelManifest
from slipway.store.gotemplate import parse
from slipway.store.template_kind import is_go_template

if TYPE_CHECKING:
    from slipway.api.daemon import Daemon

Generation = Callable[[Lease, Mapping[str, Any]], AsyncGenerator[Event, None]]


@dataclass(slots=True)
class Job:
    """One request on its way to a worker.

    Attributes:
        options: merged options, in Ollama's names.
        name: the model's name for answers and labels.
        load_s: seconds of loading, known once the events come.
        shorten: what to leave out when the prompt does not fit; None refuses it.
        cut: what was left out, known once the events come; None is nothing.
        returns_context: the tokens of prompt and answer are wanted with the end.
        context: these tokens, known with the end.
        before: tokens of earlier turns and the chat payload of the new one, for `complete`.
        template: a Go template that is used for this request instead of the model's own.
    """

    daemon: Daemon
    model: ModelManifest
    options: dict[str, Any]
    keep_alive_s: float | None
    spec: LoadSpec
    load_s: float = 0.0
    shorten: Shorten | None = None
    cut: Cut | None = None
    returns_context: bool = False
    context: list[int] | None = None
    before: tuple[list[int], dict[str, Any]] | None = None
    template: str | None = None
    info: RequestInfo = field(default_factory=current)
    name: str = ""
    _between: Any = None

    def __post_init__(self) -> None:
        self.name = self.model.display

    @property
    def client(self) -> EngineClient:
        """Who asks the worker: the daemon's client, or one that renders the model's Go template."""
        if self.template is not None:
            return TemplatedClient(self.daemon.client, parse(self.template))
        template = self.model.template
        if template and is_go_template(template):
            return TemplatedClient(self.daemon.client, parse(template))
        return self.daemon.client

    def lease(self) -> Any:
        """A worker for this request, as an async context manager."""
        info = self.info
        ask = Ask(self.name, self.keep_alive_s, info.caller, info.id, info.patience_s)
        return self.daemon.residency.lease(self.spec, ask)

    def begun(self, lease: Lease) -> None:
        """Note how the request came to its worker."""
        self.load_s = lease.load_s
        self.info.timings |= {"queue": lease.queue_s * 1e3, "load": lease.load_s * 1e3}
        self.info.queue_position = lease.position
        self.daemon.metrics.waited(self.name, lease.queue_s)

    async def load(self) -> None:
        """Load the model and do nothing with it."""
        async with self.lease() as lease:
            self.begun(lease)

    async def chat(self, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Answer messages; see `EngineClient.chat`. Sampling options are added here."""
        async with aclosing(self._run(payload, raw=False)) as events:
            async for event in events:
                yield event

    async def complete(self, payload: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """Continue a raw prompt; see `EngineClient.complete`. Sampling options are added here."""
        async with aclosing(self._run(payload, raw=True)) as events:
            async for event in events:
                yield event

    async def _run(self, payload: Mapping[str, Any], *, raw: bool) -> AsyncGenerator[Event, None]:
        begun = time.monotonic()
        self._between = self.daemon.metrics.between_tokens.labels(self.name)
        body = {**sampling(self.options), **payload}
        for attempt in (1, 2):
            last = 0.0
            try:
                async with (
                    self.lease() as lease,
                    aclosing(self._events(lease, body, raw)) as events,
                ):
                    self.begun(lease)
                    async for event in events:
                        now = time.monotonic()
                        self._seen(event, now, now - begun, last)
                        last = now
                        yield event
                return
            except WorkerLostError as error:
                # It died idle, a moment ago; the request never reached it.
                if not (error.unsent and not last and attempt == 1):
                    raise

    def _seen(self, event: Event, now: float, since_begun: float, last: float) -> None:
        """Count an event; `last` is when the one before it came, 0 for the first."""
        metrics = self.daemon.metrics
        if not last:
            self.info.timings["first"] = since_begun * 1e3
            metrics.first_token.labels(self.name).observe(since_begun)
        elif isinstance(event, Delta):
            self._between.observe(now - last)
        if isinstance(event, Finish):
            self.info.timings["prompt"] = event.prompt_s * 1e3
            self.info.timings["completion"] = event.completion_s * 1e3
            metrics.finished(self.name, event)

    async def _events(
        self, lease: Lease, body: dict[str, Any], raw: bool
    ) -> AsyncGenerator[Event, None]:
        """The answer; a prompt that does not fit is shortened once, when that was asked for."""
        client = self.client
        body = await self._with_earlier_turns(lease, body)
        adapters = lease.adapters
        if adapters is not None:
            body = {**body, "lora": adapters}
        answer: Generation = client.complete if raw else client.chat
        if self.returns_context:
            answer = self._noting_context(answer)
        begun = False
        try:
            async with aclosing(answer(lease, body)) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except UsageError as error:
            if begun or self.shorten is None or error.code != "engine.context_overflow":
                raise
        body, self.cut = await self.shorten(client, lease, body)
        self.info.headers["x-slipway-truncated"] = self.cut.header
        self.daemon.metrics.truncations.labels(self.name).inc()
        async with aclosing(answer(lease, body)) as events:
            async for event in events:
                yield event

    async def _with_earlier_turns(self, lease: Lease, body: dict[str, Any]) -> dict[str, Any]:
        if self.before is None:
            return body
        tokens, payload = self.before
        client = self.client
        text = await client.render(lease, payload)
        turn = await client.tokenize(lease, text, special=False)
        return {**body, "prompt": [*tokens, *turn]}

    def _noting_context(self, answer: Generation) -> Generation:
        """The same generation; with its end the tokens of prompt and answer are known."""

        async def noting(lease: Lease, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
            client, texts = self.client, list[str]()
            async with aclosing(answer(lease, body)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        texts.append(event.thinking + event.text)
                    else:
                        prompt = body.get("prompt")
                        if not isinstance(prompt, list):
                            rendered = await client.render(lease, body)
                            prompt = await client.tokenize(lease, rendered)
                        said = await client.tokenize(lease, "".join(texts), special=False)
                        self.context = [*prompt, *said]
                    yield event

        return noting


@dataclass(slots=True)
class Answer:
    """A whole answer, gathered from its events."""

    text: str
    thinking: str
    tool_calls: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]
    finish: Finish


async def gather(events: AsyncGenerator[Event, None]) -> Answer:
    """Run a generation to its end."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls = ToolCalls()
    logprobs: list[dict[str, Any]] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                return Answer("".join(texts), "".join(thoughts), calls.whole, logprobs, event)
            texts.append(event.text)
            thoughts.append(event.thinking)
            calls.add(event)
            logprobs.extend(event.logprobs)
    raise AssertionError("a generation ends with Finish or an error")


class ToolCalls:
    """Puts the streamed pieces of tool calls together."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, delta: Delta) -> None:
        """Take the pieces of one delta."""
        for piece in delta.tool_calls:
            call = self._calls.setdefault(
                piece.get("index", 0),
                {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
            )
            call["id"] = piece.get("id") or call["id"]
            function = piece.get("function") or {}
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""

    @property
    def whole(self) -> list[dict[str, Any]]:
        """The calls in order, in OpenAI's shape."""
        return [self._calls[index] for index in sorted(self._calls)]
