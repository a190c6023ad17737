"""What `/metrics` shows, in a registry of its own. Labels come from a closed set or the store."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.engine.client import Finish
from slipway.engine.residency import Residency

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Residents(Collector):
    """Reads the residency when scraped."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    def collect(self) -> Iterator[Metric]:
        residents = self._residency.residents()
        loaded = GaugeMetricFamily("slipway_models_loaded", "Engine workers that are loaded.")
        loaded.add_metric([], sum(r.state == "ready" for r in residents))
        yield loaded
        memory = GaugeMetricFamily(
            "slipway_model_memory_bytes", "Resident memory of a worker.", labels=["model"]
        )
        active = GaugeMetricFamily(
            "slipway_model_requests_active", "Requests a worker serves now.", labels=["model"]
        )
        for resident in residents:
            memory.add_metric([resident.name], resident.memory_bytes)
            active.add_metric([resident.name], resident.leases)
        yield memory
        yield active
        queue = GaugeMetricFamily("slipway_queue_length", "Requests that wait for a worker.")
        queue.add_metric([], self._residency.queue_length)
        yield queue
        counters = self._residency.counters
        for name, help_text, value in (
            ("model_loads", "Models loaded.", counters.loads),
            ("model_load_failures", "Models that could not be loaded.", counters.load_failures),
            ("model_evictions", "Idle models unloaded to make room.", counters.evictions),
            ("worker_crashes", "Engine workers that ended unexpectedly.", counters.crashes),
        ):
            family = CounterMetricFamily(f"slipway_{name}", help_text)
            family.add_metric([], value)
            yield family


class Metrics:
    """The daemon's counters and histograms."""

    def __init__(self, residency: Residency) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "slipway_requests",
            "HTTP requests by route, model and status.",
            ["route", "model", "status"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "slipway_request_duration_seconds",
            "From the request's head to the last byte of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "slipway_time_to_first_token_seconds",
            "From the request to the first piece of the answer, loading included.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "slipway_tokens",
            "Tokens by kind: prompt (cached ones included), cached, completion.",
            ["model", "type"],
            registry=self.registry,
        )
        self.engine_seconds = Counter(
            "slipway_engine_seconds",
            "Engine time by phase: prompt, completion.",
            ["model", "phase"],
            registry=self.registry,
        )
        self.registry.register(_Residents(residency))

    def finished(self, model: str, finish: Finish) -> None:
        """Count a generation that came to its end."""
        self.tokens.labels(model, "prompt").inc(finish.prompt_tokens)
        self.tokens.labels(model, "cached").inc(finish.cached_tokens)
        self.tokens.labels(model, "completion").inc(finish.completion_tokens)
        self.engine_seconds.labels(model, "prompt").inc(finish.prompt_s)
        self.engine_seconds.labels(model, "completion").inc(finish.completion_s)

    def render(self) -> bytes:
        """The exposition in Prometheus's text format."""
        return generate_latest(self.registry)
