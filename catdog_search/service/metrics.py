"""What a service counts, for Prometheus. No label takes a value that a client could choose."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from catdog_search.service.champion import Refused, Served

# These give a creation time for every counter, which doubles what is sent.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters of one service.

    Args:
        waiting: How many requests wait now.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = self._counter("requests", "Requests answered.", ("route", "status"))
        self._latency = Histogram(
            "catdog_request_seconds",
            "Seconds from a request's head to its answer's end.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._photos = self._counter(
            "photos", "Photos answered, and those that can't be.", ("answer",)
        )
        self._swaps = self._counter("model_swaps", "Models that began to answer.")
        self._refused = self._counter("model_refusals", "New models that stayed out.")
        self._queue = Gauge(
            "catdog_queue_length", "Requests that wait for a thread.", registry=self._registry
        )
        self._queue.set_function(waiting)
        self._model = Gauge(
            "catdog_model",
            "1 for the model that answers.",
            ("name", "version", "digest"),
            registry=self._registry,
        )

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"catdog_{name}", what, labels, registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def photo(self, answer: str) -> None:
        """A photo was answered with a class, "not sure" or "neither", or was "unusable"."""
        self._photos.labels(answer).inc()

    def model(self, found: Served | Refused | None) -> None:
        """A look for a new model found this."""
        if isinstance(found, Refused):
            self._refused.inc()
        elif found:
            self._swaps.inc()
            self._model.clear()
            self._photos.clear()  # answers are a model's classes, so they are counted per model
            self._model.labels(*(str(value or "") for value in found.named.values())).set(1)

    def text(self) -> bytes:
        """All counters, in Prometheus's text format."""
        return generate_latest(self._registry)
