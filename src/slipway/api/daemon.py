"""What the handlers share: home, residency, engine client, metrics; and one run of a model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp

from slipway.api.job import Job
from slipway.api.metrics import Metrics
from slipway.api.options import merge_options
from slipway.core.errors import SlipwayError, UsageError
from slipway.core.hardware import available_memory_bytes
from slipway.core.i18n import tr
from slipway.core.paths import Home
from slipway.engine.client import EngineClient
from slipway.engine.memory import measured
from slipway.engine.providers import Provider, find_provider
from slipway.engine.residency import Residency
from slipway.engine.settings import EngineSettings, parse_duration
from slipway.engine.spec import LoadSpec, Mode, load_spec
from slipway.engine.worker import Worker, launch
from slipway.store import ModelManifest, resolve_model
from slipway.store.adapter import add_adapters
from slipway.store.describe import capabilities_of

_KNOWN = 1000
_LOOK_EVERY_S = 2.0

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
        self._known: dict[str, ModelManifest] = {}
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
        self._tasks = [
            asyncio.create_task(self._preload()),
            asyncio.create_task(self._unload_removed()),
        ]

    async def _unload_removed(self) -> None:
        """Unload models whose weights were removed from the store by another process."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for resident in self.residency.residents():
                if not resident.spec.gguf.exists():
                    self.residency.unload(resident.spec.gguf)

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
        for task in self._tasks:
            task.cancel()
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

    async def measure_caches(self) -> None:
        """Ask the workers how full their caches are, for the metrics; the silent are left out."""
        workers = self.residency.workers()
        asked = (self.client.cache_tokens(worker) for _, worker in workers)
        found = await asyncio.gather(*asked, return_exceptions=True)
        tokens: dict[str, int] = {}
        for (name, _), count in zip(workers, found, strict=True):
            if isinstance(count, int):
                tokens[name] = tokens.get(name, 0) + count
        self.metrics.cache_tokens = tokens

    async def resolve(self, name: str) -> ModelManifest:
        """The model of that name; `base+tuned` is the base with the adapters of `tuned`.

        Raises:
            UsageError: no name was given, it is not one, or an adapter does not go with the base.
            NotFoundError: no such model.
        """
        if not name:
            raise UsageError("request.no_model", tr("model is required"))
        known = self._known.get(name)
        if known is not None and known.is_current():
            return known
        model = await asyncio.to_thread(self._resolve, name)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[name] = model
        return model

    def _resolve(self, name: str) -> ModelManifest:
        first, *others = name.split("+")
        model = resolve_model(first, home=self.home)
        if not others:
            return model
        return add_adapters(model, [resolve_model(other, home=self.home) for other in others])

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
