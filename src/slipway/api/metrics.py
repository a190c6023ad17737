"""What `/metrics` shows, in a registry of its own. Labels come from a closed set or the store."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipway.core.errors import SlipwayError
from slipway.engine.client import Finish
from slipway.engine.residency import Residency
from slipway.engine.table import Resident

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)


class _Residents(Collector):
    """Reads the residency when scraped."""

    def __init__(self, residency: Residency, metrics: Metrics) -> None:
        self._residency = residency
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """The families (Prometheus's collector protocol)."""
        residents = self._residency.residents()
        loaded = GaugeMetricFamily("slipway_models_loaded", "Engine workers that are loaded.")
        loaded.add_metric([], sum(r.state == "ready" for r in residents))
        yield loaded
        queue = self._residency.queue()
        length = GaugeMetricFamily("slipway_queue_length", "Requests that wait for a worker.")
        length.add_metric([], len(queue))
        yield length
        oldest: dict[str, float] = {}
        for queued in queue:
            oldest[queued.name] = max(oldest.get(queued.name, 0.0), queued.waited_s)
        waiting = Tally(queued.name for queued in queue)
        for name, help_text, values in (
            ("model_queue_length", "Requests that wait, by model.", dict(waiting)),
            ("model_queue_oldest_seconds", "How long the oldest has waited.", oldest),
            ("model_memory_bytes", "Resident memory.", _sums(residents, _memory)),
            ("model_requests_active", "Requests being served.", _sums(residents, _leases)),
            ("model_slots", "Requests that can be served at once.", _sums(residents, _slots)),
            ("model_context_tokens", "Context of all slots.", _sums(residents, _context)),
            (
                "model_kv_cache_tokens",
                "Tokens whose keys and values are held, those of earlier requests included.",
                self._metrics.cache_tokens,
            ),
        ):
            family = GaugeMetricFamily(f"slipway_{name}", help_text, labels=["model"])
            for model, value in values.items():
                family.add_metric([model], value)
            yield family
        counters = self._residency.counters
        for name, help_text, counts in (
            ("model_loads", "Models loaded.", counters.loads),
            ("model_load_seconds", "Time spent on loading.", counters.load_s),
            ("model_load_failures", "Models that could not be loaded.", counters.load_failures),
            ("model_evictions", "Idle models unloaded to make room.", counters.evictions),
            ("worker_crashes", "Engine workers that ended unexpectedly.", counters.crashes),
        ):
            counter = CounterMetricFamily(f"slipway_{name}", help_text, labels=["model"])
            for model, count in counts.items():
                counter.add_metric([model], count)
            yield counter


def _memory(resident: Resident) -> int:
    return resident.memory_bytes


def _leases(resident: Resident) -> int:
    return resident.leases


def _slots(resident: Resident) -> int:
    return resident.spec.slots


def _context(resident: Resident) -> int:
    return resident.spec.slots * resident.spec.num_ctx


def _sums(residents: list[Resident], value: Callable[[Resident], int]) -> dict[str, int]:
    """A number for each name; two workers of one model add up."""
    found: Tally[str] = Tally()
    for resident in residents:
        found[resident.name] += value(resident)
    return dict(found)


class Metrics:
    """The daemon's counters and histograms."""

    def __init__(self, residency: Residency) -> None:
        self.cache_tokens: dict[str, int] = {}
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
        self._times()
        self.truncations = Counter(
            "slipway_truncations",
            "Prompts that were shortened because the client asked for it.",
            ["model"],
            registry=self.registry,
        )
        self.errors = Counter(
            "slipway_errors",
            "Requests that ended with an error, by its code.",
            ["model", "code"],
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
        self.registry.register(_Residents(residency, self))

    def _times(self) -> None:
        """Histograms of how long each request took, by model."""
        self.first_token = Histogram(
            "slipway_time_to_first_token_seconds",
            "From the request to the first piece of the answer, loading included.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            "slipway_inter_token_latency_seconds",
            "Between two pieces of an answer.",
            ["model"],
            buckets=_SHORT,
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "slipway_queue_wait_seconds",
            "From the request to its turn, loading not counted.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def failed(self, model: str, error: SlipwayError) -> None:
        """Count a request that ended with an error."""
        self.errors.labels(model, error.code).inc()

    def waited(self, model: str, seconds: float) -> None:
        """Count a request that got its worker."""
        self.queue_wait.labels(model).observe(seconds)

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
