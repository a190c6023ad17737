"""What the gateway tells Prometheus. Labels never name a user, a token or a request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from slipway.gateway.usage import RequestRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_FIRST_BYTE_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)


class Metrics:
    """The counters of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where = ("model", "channel", "endpoint")
        self._requests = self._counter(
            "requests", "Requests that reached a model", (*where, "stream", "status", "error")
        )
        self._refused = self._counter(
            "refused", "Requests refused before any channel was tried", ("status", "code")
        )
        self._tokens = self._counter("tokens", "Tokens billed", ("model", "channel", "type"))
        self._cost = self._counter("cost_micro", "Cost in micro-units", ("model", "channel"))
        self._duration = Histogram(
            "slipway_gateway_request_duration_seconds",
            "From a request's arrival to the end of its answer",
            where,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "slipway_gateway_time_to_first_byte_seconds",
            "From a request's arrival to the first byte of its answer",
            where,
            buckets=_FIRST_BYTE_SECONDS,
            registry=self.registry,
        )
        self.inflight = Gauge(
            "slipway_gateway_inflight", "Requests being relayed now", registry=self.registry
        )
        self.disconnects = self._counter(
            "client_disconnects", "Clients that left before the end of their answer", ()
        )
        self.fallbacks = self._counter(
            "fallbacks", "Channels that could not be connected to", ("channel",)
        )

        self.filtered = self._counter(
            "filter_hits", "Texts that the content filter found", ("rule", "mode", "where")
        )

    def refused(self, status: int, code: str | None) -> None:
        """Count a request that ended before any channel was tried."""
        self._refused.labels(str(status), code or "").inc()

    def finished(self, done: RequestRecord, channel: str) -> None:
        """Count a request that reached the end of the relay."""
        where = (done.model, channel, done.endpoint)
        stream = str(done.stream).lower()
        self._requests.labels(*where, stream, str(done.status), done.error or "").inc()
        self._tokens.labels(done.model, channel, "input").inc(done.usage.prompt)
        self._tokens.labels(done.model, channel, "output").inc(done.usage.completion)
        self._cost.labels(done.model, channel).inc(done.cost_micro)
        self._duration.labels(*where).observe(done.duration_ms / 1000)
        if done.ttft_ms is not None:
            self._first_byte.labels(*where).observe(done.ttft_ms / 1000)
        if done.status == 499:
            self.disconnects.inc()

    def exposition(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"slipway_gateway_{name}", text, labels, registry=self.registry)
