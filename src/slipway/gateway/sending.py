"""One request's way to a channel that answers: the router's decisions carried out."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import aiohttp

from slipway.core.errors import UsageError
from slipway.gateway.adapters import ADAPTERS, Adapter, UpstreamRequest
from slipway.gateway.config import GatewayConfig
from slipway.gateway.directory import Catalogue, Directory
from slipway.gateway.exchange import Exchange
from slipway.gateway.metrics import Metrics
from slipway.gateway.problems import ApiError, bad_request, no_channel, upstream_unreachable
from slipway.gateway.routing import (
    Ask,
    Attempts,
    Breakers,
    ChannelTable,
    Explanation,
    Failure,
    Live,
    Pause,
    RetryBudget,
    Router,
    RoutingRules,
    Sending,
    explain,
    prefix_hash,
    retry_after,
)
from slipway.gateway.upstream import NotConnectedError, Upstreams, error_from_answer

log = logging.getLogger("slipway.gateway")


class Sender:
    """What the requests of a process share: connections, breakers, loads, the retry budget."""

    def __init__(self, directory: Directory, config: GatewayConfig, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics
        self._upstreams = Upstreams(config)
        self._catalogue: Catalogue | None = None
        self._router = Router(
            ChannelTable(()),
            Live(Breakers(random.random)),
            RetryBudget(),
            random.random,
            rules=RoutingRules(config.strategy),
        )

    @property
    def live(self) -> Live:
        """What is known of the channels at this moment."""
        return self._router.live

    def router(self, catalogue: Catalogue) -> Router:
        """The router over these channels, around what is known of them."""
        if catalogue is not self._catalogue:
            self._router = replace(self._router, table=ChannelTable(catalogue.channels))
            self._catalogue = catalogue
        return self._router

    async def close(self) -> None:
        """Close all connections."""
        await self._upstreams.close()

    def way(self, exchange: Exchange) -> Way:
        """The way of an admitted request; close it in a `finally`."""
        router = self.router(exchange.catalogue)
        model, body = exchange.model, exchange.call.body
        # a single channel has every prefix anyway
        several = len(exchange.catalogue.by_model[model]) > 1
        prefix = prefix_hash(body) if several and router.rules.affinity else None
        ask = Ask(model, exchange.token.group, prefix=prefix)
        return Way(self, exchange, Attempts(router, ask, time.time()))

    def explain(
        self, catalogue: Catalogue, body: Mapping[str, Any], group: str | None
    ) -> Explanation:
        """Where a request with this body would go now, and why; without effect."""
        router = self.router(catalogue)
        prefix = prefix_hash(body) if router.rules.affinity else None
        ask = Ask(str(body.get("model") or ""), group, prefix=prefix)
        return explain(router, ask, time.time())

    async def send(
        self, exchange: Exchange, step: Sending
    ) -> tuple[UpstreamRequest, aiohttp.ClientResponse]:
        """Send to a channel and wait for the answer's headers.

        Raises:
            UsageError: this kind of channel cannot serve such a request.
        """
        channel, call = step.target.channel, exchange.call
        key = self._directory.upstream_key(exchange.catalogue, channel)
        adapter = ADAPTERS[channel.kind]
        request = adapter.request(step.target, call.endpoint, call.raw, call.body, key)
        return request, await self._upstreams.send(request, channel.reach, call.request_id)

    def passed_over(self, name: str) -> None:
        """Count a channel that did not answer a request."""
        self._metrics.fallbacks.labels(name).inc()


class Way:
    """One request, from channel to channel until one answers."""

    def __init__(self, sender: Sender, exchange: Exchange, attempts: Attempts) -> None:
        self._sender = sender
        self._exchange = exchange
        self._attempts = attempts
        self._sent_at = 0.0
        self._said: ApiError | None = None
        self._begun = False
        self.adapter: Adapter = ADAPTERS["openai"]  # of the channel that was asked last

    async def connect(self) -> tuple[UpstreamRequest, aiohttp.ClientResponse]:
        """The first good answer's headers.

        Raises:
            ApiError: what the last channel said, or that there is none to ask.
        """
        while (step := self._attempts.next(time.time())) is not None:
            if isinstance(step, Pause):
                await asyncio.sleep(step.delay_s)
                continue
            self._sent_at = time.perf_counter()
            self.adapter = ADAPTERS[step.target.channel.kind]
            try:
                request, answer = await self._sender.send(self._exchange, step)
            except UsageError as cannot:
                self._said = bad_request(cannot.message_en, code="unsupported")
                self._failed(step, Failure("status", 501), cannot.message_en)
                continue
            except NotConnectedError as error:
                self._failed(step, Failure("connect"), str(error))
                continue
            except ApiError as silent:
                self._said = silent
                self._failed(step, Failure("timeout"), silent.message)
                continue
            if answer.status == 200:
                self._exchange.channel = step.target.channel
                return request, answer
            await self._refused(step, answer)
        raise self._end()

    def first_byte(self) -> None:
        """The channel's answer begins; may be called again."""
        if self._begun:
            return
        self._begun = True
        self._attempts.answered(time.perf_counter() - self._sent_at, time.time())

    def broke_off(self) -> None:
        """The channel's answer ended before its end; the client has some of it, or an error."""
        self._attempts.failed(Failure("reset", first_byte=True), time.time())

    def close(self) -> None:
        """The request is over; may be called again."""
        self._attempts.close()

    async def _refused(self, step: Sending, answer: aiohttp.ClientResponse) -> None:
        """The channel answered with an error; whether it is passed on is the router's decision."""
        try:
            body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._failed(step, Failure("reset"), repr(error))
            return
        finally:
            answer.close()
        self._exchange.channel = step.target.channel
        call = self._exchange.call
        body = self.adapter.answer(call.endpoint, answer.status, body).body
        problem = error_from_answer(answer.status, answer.headers, body, call.request_id)
        self._said = problem
        wait = retry_after(answer.headers.get("Retry-After"), time.time())
        codes = frozenset(code for code in (problem.code, problem.type) if code)
        failure = Failure("status", answer.status, codes, wait)
        self._failed(step, failure, f"HTTP {answer.status}")

    def _failed(self, step: Sending, failure: Failure, reason: str) -> None:
        name = step.target.channel.name
        log.warning("%s channel %s: %s", self._exchange.call.request_id, name, reason)
        self._attempts.failed(failure, time.time())
        if self._attempts.gave_up is None:
            self._sender.passed_over(name)

    def _end(self) -> ApiError:
        """What the client is told when no channel gave a good answer."""
        last = self._attempts.last
        if last is None:
            now = time.time()
            limited, back_s = self._attempts.all_limited(now), self._attempts.come_back_s(now)
            return no_channel(self._exchange.model, back_s, limited=limited)
        if last.kind in ("status", "timeout") and self._said is not None:
            return self._said
        return upstream_unreachable(self._attempts.sent)
