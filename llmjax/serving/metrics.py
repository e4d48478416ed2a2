"""Figures for Prometheus."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmjax.serving.models import ServedModel


class Metrics:
    """Counters of one server, in a registry of its own.

    Attributes:
      registry: what /metrics shows.
      requests: by model and status.
      first_token: seconds from a request to its first output, by model.
    """

    def __init__(self, models: Sequence[ServedModel]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llmjax_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self.first_token = Histogram(
            "llmjax_time_to_first_token_seconds",
            "Seconds from a request to its first output",
            ["model"],
            registry=self.registry,
        )
        self.registry.register(_Engines(models))


class _Engines(Collector):
    def __init__(self, models: Sequence[ServedModel]):
        self._models = models

    def collect(self) -> Iterable[Metric]:
        running = GaugeMetricFamily("llmjax_running", "Requests decoded", labels=["model"])
        waiting = GaugeMetricFamily("llmjax_waiting", "Requests waiting", labels=["model"])
        tokens = CounterMetricFamily("llmjax_generated_tokens", "Tokens", labels=["model"])
        reused = CounterMetricFamily("llmjax_prefix_tokens", "Tokens reused", labels=["model"])
        for model in self._models:
            if model.worker is not None:
                engine, label = model.worker.engine, [model.name]
                running.add_metric(label, engine.running)
                waiting.add_metric(label, engine.waiting)
                tokens.add_metric(label, model.worker.tokens)
                reused.add_metric(label, engine.prefixes.hits)
        return [running, waiting, tokens, reused]
