"""What the handlers share: home, residency, engine client, metrics; and one run of a model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from slipway.api.context import RequestInfo, current
from slipway.api.metrics import Metrics
from slipway.api.options import merge_options, sampling
from slipway.api.truncation import Cut, Shorten
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.hardware import available_memory_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.engine.client import Delta, EngineClient, Event, Finish
from slipway.engine.memory import measured
from slipway.engine.providers import Provider, find_provider
from slipway.engine.residency import Residency
from slipway.engine.settings import EngineSettings, parse_duration
from slipway.engine.spec import LoadSpec, Mode, load_spec
from slipway.engine.table import Lease, WorkerLostError
from slipway.engine.table import Request as Ask
from slipway.engine.worker import Worker, launch
from slipway.store import ModelManifest, resolve_model
from slipway.store.describe import capabilities_of

logger = logging.getLogger("slipway.api")


class Daemon:
    """The running daemon's parts; `start` and `close` are called by the app's lifespan."""

    def __init__(
        self, home: Home, settings: EngineSettings, provider: Provider | None = None
    ) -> None:
        self.home = home
        self.settings = settings
        self._provider = provider
        self._session: aiohttp.ClientSession | None = None
        self.residency = Residency(self._launch, settings, measured(settings))
        self.metrics = Metrics(self.residency)

    async def start(self) -> None:
        """Open the HTTP client and start the residency."""
        # No connection is used twice: on loopback a new one costs next to nothing, and only then
        # does a refused connection prove that a dead worker never saw the request.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)
        self.client = EngineClient(self._session)
        await self.residency.start()
        self._preloading = asyncio.create_task(self._preload())

    async def _preload(self) -> None:
        """Load the models that the settings name, one after the other; a failure is logged."""
        wanted = dict.fromkeys((*self.settings.pin, *self.settings.preload))
        for name in wanted:
            try:
                model = await self.resolve(name)
                mode: Mode = "generate" if "completion" in capabilities_of(model) else "embed"
                job = self.prepare(model, {}, None, mode)
                if name in self.settings.pin:
                    self.residency.pin(job.spec.key)
                await job.load()
            except SlipwayError as error:
                logger.error("preloading %s failed: %s", name, error)

    async def close(self) -> None:
        """Stop every worker."""
        self._preloading.cancel()
        await self.residency.close()
        if self._session:
            await self._session.close()

    async def _launch(self, spec: LoadSpec) -> Worker:
        assert self._session is not None
        # Looked up at each load, so that a toolchain installed meanwhile is used.
        provider = self._provider or find_provider(self.settings, self.home)
        return await launch(
            spec,
            provider,
            self._session,
            logs=self.home.logs,
            timeout_s=self.settings.load_timeout_s,
        )

    async def resolve(self, name: str) -> ModelManifest:
        """The model of that name.

        Raises:
            UsageError: no name was given, or it is not one.
            NotFoundError: no such model.
        """
        if not name:
            raise UsageError("request.no_model", tr("model is required"))
        return await asyncio.to_thread(resolve_model, name, home=self.home)

    def prepare(
        self,
        model: ModelManifest,
        options: Mapping[str, Any],
        keep_alive: str | int | float | None,
        mode: Mode,
    ) -> Job:
        """Merge options and decide what to load for a request.

        Raises:
            UsageError: an option or keep_alive has a bad value.
        """
        merged, unknown = merge_options(model.parameters, options)
        for name in unknown:
            logger.warning("invalid option provided: %s", name)
        try:
            keep_s = None if keep_alive is None else parse_duration(keep_alive)
        except ValueError:
            raise UsageError(
                "request.bad_keep_alive",
                tr("keep_alive `{value}` is no duration (300, `5m`, -1)", value=keep_alive),
            ) from None
        spec = load_spec(
            model, merged, self.settings, mode=mode, free_bytes=available_memory_bytes()
        )
        return Job(self, model, merged, keep_s, spec)


@dataclass(slots=True)
class Job:
    """One request on its way to a worker.

    Attributes:
        options: merged options, in Ollama's names.
        load_s: seconds of loading, known once the events come.
        shorten: what to leave out when the prompt does not fit; None refuses it.
        cut: what was left out, known once the events come; None is nothing.
    """

    daemon: Daemon
    model: ModelManifest
    options: dict[str, Any]
    keep_alive_s: float | None
    spec: LoadSpec
    load_s: float = 0.0
    shorten: Shorten | None = None
    cut: Cut | None = None
    info: RequestInfo = field(default_factory=current)

    @property
    def name(self) -> str:
        """The model's name for answers and labels."""
        return self.model.name.display

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
            metrics.between_tokens.labels(self.name).observe(now - last)
        if isinstance(event, Finish):
            self.info.timings["prompt"] = event.prompt_s * 1e3
            self.info.timings["completion"] = event.completion_s * 1e3
            metrics.finished(self.name, event)

    async def _events(
        self, lease: Lease, body: dict[str, Any], raw: bool
    ) -> AsyncGenerator[Event, None]:
        """The answer; a prompt that does not fit is shortened once, when that was asked for."""
        client = self.daemon.client
        adapters = lease.adapters
        if adapters is not None:
            body = {**body, "lora": adapters}
        answer = client.complete if raw else client.chat
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


def require_capability(model: ModelManifest, capability: str, verb: str | None = None) -> None:
    """Refuse what a model cannot do.

    Raises:
        UsageError: the model lacks the capability.
    """
    known = capabilities_of(model)
    if capability not in known:
        raise UsageError(
            "model.capability",
            tr('"{name}" does not support {verb}', name=model.name, verb=verb or capability),
        )
